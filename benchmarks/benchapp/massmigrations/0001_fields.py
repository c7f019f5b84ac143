"""A function on objects, whose changes the engine writes."""

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return knobs.chosen(Item.objects.only("name", "slug"))

    def operation(self, obj, db_alias):
        obj.slug = obj.name.replace(" ", "-").lower()
