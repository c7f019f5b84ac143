from massmigration.migrations import MapperMigration
from shop.models import Product


class Migration(MapperMigration):
    """Fails at one of the products."""

    def get_queryset(self, db_alias):
        return Product.objects.using(db_alias).all()

    def operation(self, obj, db_alias):
        if obj.name == "Product 3":
            raise ValueError("what is this?")
        obj.n += 1000
        obj.save()
