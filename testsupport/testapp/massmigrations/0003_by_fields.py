"""The second way to write: the engine writes the changed fields of the whole batch."""

from massmigration.migrations import MapperMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower().replace(" ", "-")
        knobs.log_call("by_fields", obj.pk, db_alias)
        knobs.pause()
