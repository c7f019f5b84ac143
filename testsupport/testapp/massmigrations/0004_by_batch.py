"""The third way to write: set-based."""

from django.db.models import F

from massmigration.migrations import MapperMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        rows = queryset.update(n=F("n") + 1)
        knobs.pause(rows)
