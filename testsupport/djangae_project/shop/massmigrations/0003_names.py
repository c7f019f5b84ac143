from massmigration.migrations import MapperMigration
from shop.models import Call, Named


class Migration(MapperMigration):
    def get_queryset(self, db_alias):
        return Named.objects.all()

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower()
        obj.save()
        Call.objects.using(db_alias).create(what=f"named {obj.pk}")
