"""A migration over UUID keys, among which new ones come anywhere. Processed objects leave the queryset."""

from django.db.models import F

from massmigration.migrations import MapperMigration
from testsupport.testapp import knobs
from testsupport.testapp.models import Token


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Token.objects.filter(note="")

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.note = "done"
        obj.save()
        knobs.pause()
