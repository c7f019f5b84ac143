"""A batch that outlasts its lease."""

from massmigration.migrations import MapperMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        knobs.note_run(obj.pk)
        knobs.count(db_alias, pk=obj.pk)
        knobs.pause()
