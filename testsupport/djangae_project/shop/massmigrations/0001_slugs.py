from massmigration.migrations import MapperMigration
from shop.models import Call, Item


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower()
        obj.save()
        Call.objects.using(db_alias).create(what=str(obj.pk))
