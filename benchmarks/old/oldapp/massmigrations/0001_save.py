"""An operation that saves each object, as the predecessor requires."""

from benchmarks.old.oldapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.slug = obj.name.replace(" ", "-").lower()
        obj.save()
