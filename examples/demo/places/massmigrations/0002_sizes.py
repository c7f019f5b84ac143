"""Set-based: one UPDATE for each batch."""

from django.db.models import Case, Value, When

from massmigration.migrations import MapperMigration
from places.models import City, Size


class Migration(MapperMigration):
    """Sorts the cities into size classes."""

    dependencies = [("places", "0001_search_keys")]

    def get_queryset(self, db_alias):
        return City.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        queryset.update(
            size=Case(
                When(population__lt=5_000, then=Value(Size.VILLAGE)),
                When(population__lt=100_000, then=Value(Size.TOWN)),
                When(population__lt=1_000_000, then=Value(Size.CITY)),
                default=Value(Size.METROPOLIS),
            )
        )
