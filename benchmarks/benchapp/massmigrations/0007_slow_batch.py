"""An operation that takes 50 ms for each row of its batch."""

import time

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        time.sleep(knobs.seconds * queryset.update(slug="done"))
