"""An operation that waits for something else: as long for every row, or ten times as long in one part of the table."""

import time

from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration

EVERY = 100


class Migration(MapperMigration):
    update_fields = ["slug"]
    slow = (0, 0)
    seconds = 2e-5

    def get_queryset(self, db_alias):
        return Item.objects.only("name", "slug")

    def operation(self, obj, db_alias):
        if obj.pk % EVERY == 0:
            factor = 10 if self.slow[0] < obj.pk <= self.slow[1] else 1
            time.sleep(self.seconds * EVERY * factor)
        obj.slug = obj.name.replace(" ", "-").lower()
