"""A command that sets the project up, launches the given migrations, and prints the results."""

import json
import sys


def set_up():
    from django.core.management import call_command
    from shop.models import Product

    call_command("migrate", run_syncdb=True, verbosity=0)
    Product.objects.bulk_create(Product(name=f"Product {number}") for number in range(10))


def launch(keys):
    from massmigration.loader import store

    for key in keys:
        migration = store.by_key[key]
        migration.check_dependencies("default")
        migration.launch("default")


def describe():
    from shop.models import Product

    from massmigration.enforcement import migration_is_applied
    from massmigration.loader import store
    from massmigration.models import MigrationRecord

    records = {record.key: record for record in MigrationRecord.objects.all()}
    return {
        "records": {
            key: {
                "name": [record.app_label, record.name],
                "attempt": str(record.attempt_uuid),
                "initiated_at": str(record.initiated_at),
                "applied_at": str(record.applied_at),
                "flags": [record.is_applied, record.has_error, record.in_progress],
                "last_error": record.last_error,
                "is_applied": migration_is_applied(key, "default"),
            }
            for key, record in records.items()
        },
        "keys": sorted(migration.key for migration in store.all),
        "products": list(Product.objects.order_by("pk").values_list("slug", "n")),
    }


if __name__ == "__main__":
    import django

    django.setup()
    command, *arguments = sys.argv[1:]
    if command == "set_up":
        set_up()
    launch(arguments)
    json.dump(describe(), sys.stdout)
