from django.db.models import F

from massmigration.migrations import BaseMigration
from shop.models import Product


class Migration(BaseMigration):
    """Counts every product again. This will appear in the Django admin."""

    # This can be set to make a migration run on a specific backend, rather than the one that's
    backend: str = None
    # specified in the Django settings

    # For a custom migration, you must set this, and your backend must have this method.
    backend_method: str = NotImplemented

    # If you need to configure the backend differently for each migration, this is a place for
    # passing parameters to it.
    backend_params: dict = {}

    # If None the migration can be applied to all databases.
    allowed_db_aliases: list = None

    dependencies = [
        ("shop", "0001_simple"),
    ]

    def launch(self, db_alias):
        self.check_dependencies(db_alias)
        self.mark_as_started(db_alias)
        try:
            Product.objects.using(db_alias).update(n=F("n") + 10)
        except Exception as error:
            self.mark_as_errored(db_alias, error)
        else:
            self.mark_as_finished(db_alias)
