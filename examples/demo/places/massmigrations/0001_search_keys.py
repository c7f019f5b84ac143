"""Python code for every object; the engine writes the changed fields."""

from django.utils.text import slugify

from massmigration.migrations import MapperMigration
from places.folding import fold
from places.models import City


class Migration(MapperMigration):
    """Gives every city a slug, and a key that finds it by any of its names in any script."""

    update_fields = ["slug", "search_key"]

    def get_queryset(self, db_alias):
        return City.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.slug = f"{slugify(fold(obj.name), allow_unicode=True)}-{obj.pk}"
        obj.search_key = fold(f"{obj.name}\n{obj.other_names}")
