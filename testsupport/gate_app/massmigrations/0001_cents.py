"""Values for the new column."""

from massmigration.migrations import MapperMigration
from testsupport.gate_app.models import Parcel


class Migration(MapperMigration):
    update_fields = ["cents"]

    def get_queryset(self, db_alias):
        return Parcel.objects.filter(cents=None)

    def operation(self, obj, db_alias):
        obj.cents = round(float(obj.price) * 100)
