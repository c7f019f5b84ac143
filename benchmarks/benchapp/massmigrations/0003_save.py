"""An operation that saves each object itself."""

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return knobs.chosen(Item.objects.all())

    def operation(self, obj, db_alias):
        obj.slug = obj.name.replace(" ", "-").lower()
        obj.save()
