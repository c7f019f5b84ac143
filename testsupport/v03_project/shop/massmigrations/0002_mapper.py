from django.utils.text import slugify

from massmigration.migrations import MapperMigration
from shop.models import Product


class Migration(MapperMigration):
    """Slugs. This will appear in the Django admin."""

    # This can be set to make a migration run on a specific backend, rather than the one that's
    backend: str = None
    # specified in the Django settings

    # If you need to configure the backend differently for each migration, this is a place for
    # passing parameters to it.
    backend_params: dict = {
        "defer_iteration_with_finalize_kwargs": {"_shards": 4},
    }

    # If None the migration can be applied to all databases.
    allowed_db_aliases: list = ["default"]

    dependencies = [
        ("shop", "0001_simple"),
    ]

    def get_queryset(self, db_alias):
        return Product.objects.all().order_by("name")

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
        obj.save(using=db_alias)
