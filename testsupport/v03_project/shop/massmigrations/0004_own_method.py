from django.db.models import F

from massmigration.migrations import BaseMigration
from shop.models import Product


class Migration(BaseMigration):
    """Is run by a method of its own on a backend of its own."""

    backend = "shop.backends.InlineBackend"
    backend_method = "run_in_turns"
    backend_params = {"turns": 3}

    dependencies = [
        ("shop", "0003_custom"),
    ]

    def take_turn(self, db_alias):
        Product.objects.using(db_alias).update(n=F("n") + 100)
