"""An operation that takes 50 ms for each object."""

import time

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.only("name", "slug")

    def operation(self, obj, db_alias):
        time.sleep(knobs.seconds)
        obj.slug = obj.name.replace(" ", "-").lower()
