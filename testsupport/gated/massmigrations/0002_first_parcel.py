"""Done once; a new database wants it too."""

from massmigration.migrations import SimpleMigration
from testsupport.gated.models import Parcel


class Migration(SimpleMigration):
    dependencies = [("gated", "0001_cents")]

    def operation(self, db_alias):
        Parcel.objects.using(db_alias).create(price="0.01", cents=1)
