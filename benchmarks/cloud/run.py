"""A command that fills the project's database, runs its mapper, and prints JSON: `python run.py ROWS`."""

import json
import sys
import time

import django
from django.core.management import call_command

KEY = "shop:0001_slugs"
PATIENCE = 600


def main(rows):
    from shop.models import Call, Item

    from massmigration.loader import store
    from massmigration.models import MigrationRecord

    call_command("migrate", run_syncdb=True, verbosity=0)
    Item.objects.bulk_create([Item(name=f"Item {n}") for n in range(rows)], batch_size=2000)
    start = time.monotonic()
    store.by_key[KEY].launch("default")
    while not any(record.is_applied for record in MigrationRecord.objects.filter(key=KEY)):
        if time.monotonic() - start > PATIENCE:
            raise SystemExit(f"It was not applied within {PATIENCE} s.")
        time.sleep(0.02)
    seconds = time.monotonic() - start
    done = sum(1 for name, slug in Item.objects.values_list("name", "slug") if slug == name.lower())
    return {"seconds": seconds, "rows": rows, "done": done, "calls": Call.objects.count()}


if __name__ == "__main__":
    django.setup()
    print(json.dumps(main(int(sys.argv[1]))))
