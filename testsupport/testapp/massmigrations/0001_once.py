"""A simple migration that works on every item."""

from massmigration.migrations import SimpleMigration
from testsupport.testapp import knobs


class Migration(SimpleMigration):
    def operation(self, db_alias):
        knobs.count(db_alias)
        knobs.log_call("once", None, db_alias)
        knobs.pause(200)
