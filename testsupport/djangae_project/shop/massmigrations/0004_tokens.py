from massmigration.migrations import MapperMigration
from shop.models import Call, Token


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Token.objects.filter(slug="")

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower()
        Call.objects.using(db_alias).create(what=f"token {obj.pk}")
