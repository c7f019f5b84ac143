"""A call that outlasts its lease."""

from massmigration.migrations import SimpleMigration
from testsupport.testapp import knobs


class Migration(SimpleMigration):
    def operation(self, db_alias):
        knobs.note_run("once")
        knobs.count(db_alias)
        knobs.pause(10)
