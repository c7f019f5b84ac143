"""An operation that computes, and is written back by the engine."""

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.only("name", "slug")

    def operation(self, obj, db_alias):
        number = 0
        for turn in range(knobs.loops):
            number += turn
        obj.slug = f"{number}-{obj.pk}"
