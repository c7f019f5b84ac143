from massmigration.migrations import SimpleMigration
from shop.models import Call


class Migration(SimpleMigration):
    dependencies = [("shop", "0001_slugs")]

    def operation(self, db_alias):
        Call.objects.using(db_alias).create(what="once")
