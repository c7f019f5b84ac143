"""The first way to write: the operation saves."""

from django.db.models import F

from massmigration.migrations import MapperMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Item


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save()
        knobs.log_call("by_object", obj.pk, db_alias)
        knobs.pause()
