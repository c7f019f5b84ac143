"""A migration whose queryset shrinks while it runs."""

from django.db.models import F

from massmigration.migrations import MapperMigration
from testsupport.testapp.models import Item

KEY = "testapp:9000_shrinking"


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1, slug="done")
