"""A migration that is done once, also on a new database."""

from massmigration.migrations import SimpleMigration
from testsupport.gate_app.models import Parcel


class Migration(SimpleMigration):
    dependencies = [("gated", "0001_cents")]

    def operation(self, db_alias):
        Parcel.objects.using(db_alias).create(price="0.01", cents=1)
