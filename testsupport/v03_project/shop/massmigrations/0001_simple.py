from django.db.models import F

from massmigration.migrations import SimpleMigration
from shop.models import Product


class Migration(SimpleMigration):
    """Counts every product once. This will appear in the Django admin."""

    # This can be set to make a migration run on a specific backend, rather than the one that's
    backend: str = None
    # specified in the Django settings

    # If you need to configure the backend differently for each migration, this is a place for
    # passing parameters to it.
    backend_params: dict = {}

    # If None the migration can be applied to all databases.
    allowed_db_aliases: list = None

    dependencies = []

    def operation(self, db_alias):
        Product.objects.using(db_alias).update(n=F("n") + 1)
