"""A slug for every product."""

from django.utils.text import slugify

from massmigration.migrations import MapperMigration
from shop.models import Product


class Migration(MapperMigration):
    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Product.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
