"""A migration with a limit of rows a second, which records the database's time of each row."""

from django.db.models import F

from massmigration.dialects.times import DatabaseNow
from massmigration.migrations import MapperMigration
from massmigration.throttling import MaxRowsPerSecond
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(MapperMigration):
    throttle = [MaxRowsPerSecond(2000)]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        rows = queryset.update(n=F("n") + 1, touched_at=DatabaseNow())
        knobs.pause(rows)
