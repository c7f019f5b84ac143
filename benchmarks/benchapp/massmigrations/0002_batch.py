"""Set-based: one UPDATE by expression for each batch."""

from django.db.models import Value
from django.db.models.functions import Lower, Replace

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration.migrations import MapperMigration


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return knobs.chosen(Item.objects.all())

    def operation_batch(self, queryset, db_alias):
        queryset.update(slug=Lower(Replace("name", Value(" "), Value("-"))))
