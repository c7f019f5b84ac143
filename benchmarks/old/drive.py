"""A command that fills the table, runs the migration, and prints its seconds, for each number of rows on its input."""

import importlib.metadata
import sys
import time

import django


def fill(count):
    from benchmarks.old.oldapp.models import Item

    Item.objects.all().delete()
    rows = (Item(name=f"Item number {n}", counter=n % 1000, payload="x" * 120) for n in range(count))
    Item.objects.bulk_create(rows, batch_size=5000)


def run():
    from benchmarks.old.oldapp.models import Item
    from massmigration.loader import store
    from massmigration.models import MigrationRecord

    MigrationRecord.objects.all().delete()
    migration = store.by_key["oldapp:0001_save"]
    start = time.perf_counter()
    migration.launch("default")
    seconds = time.perf_counter() - start
    record = MigrationRecord.objects.get()
    assert record.is_applied, record.last_error
    assert not Item.objects.filter(slug=None).exists()
    return seconds


def main():
    django.setup()
    from benchmarks import database

    database.create(run_syncdb=True)
    print("READY", importlib.metadata.version("django-mass-migration"), flush=True)
    for line in sys.stdin:
        fill(int(line))
        print(run(), flush=True)


if __name__ == "__main__":
    main()
