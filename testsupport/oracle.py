"""Checks in the database that every row was processed exactly once, and that the records agree."""

from __future__ import annotations

from django.db import connections
from django.db.models import Sum

from massmigration.models import Event, FailedObject, ShardRecord
from testsupport.testapp.models import Call, Item

MANY = 1_000


def make_items(db_alias: str, count: int) -> None:
    """Create items with the names "Item 0", "Item 1" and so on."""
    items = Item.objects.using(db_alias)
    if count <= MANY:
        items.bulk_create(Item(name=f"Item {number}") for number in range(count))
        return
    first = items.create(name="Item 0")
    connection = connections[db_alias]
    table, name = Item._meta.db_table, connection.ops.quote_name("name")
    columns = ", ".join(connection.ops.quote_name(field.column) for field in Item._meta.fields[2:])
    numbered = "CONCAT('Item ', i)" if db_alias in ("mariadb", "mysql") else "'Item ' || i"
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    places = range(len(str(count - 1)))
    value = " + ".join(f"{10**place} * d{place}.d" for place in places)
    numbers = f"SELECT {value} AS i FROM {', '.join(f'({digits}) d{place}' for place in places)}"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({name}, {columns}) SELECT {numbered}, {columns} FROM ({numbers}) numbers, {table} "
            f"WHERE {table}.id = {first.pk} AND i BETWEEN 1 AND {count - 1} ORDER BY i"
        )


def counts(db_alias: str) -> list[int]:
    """Return how often rows were counted, each number once."""
    return sorted(set(Item.objects.using(db_alias).values_list("n", flat=True)))


def calls(db_alias: str) -> list[int]:
    """Return the keys of the rows for which operations logged calls."""
    return sorted(Call.objects.using(db_alias).exclude(item=None).values_list("item", flat=True))


def rows(db_alias: str) -> list[int]:
    return sorted(Item.objects.using(db_alias).values_list("pk", flat=True))


def tally(db_alias: str) -> tuple[int, int, int]:
    """Return the sums of the shards' counts of processed, skipped and failed objects."""
    sums = ShardRecord.objects.using(db_alias).aggregate(*map(Sum, ("processed", "skipped", "failed")))
    return sums["processed__sum"], sums["skipped__sum"], sums["failed__sum"]


def verbs(db_alias: str) -> list[str]:
    return list(Event.objects.using(db_alias).order_by("pk").values_list("verb", flat=True))


def everything(db_alias: str) -> list[list[dict[str, object]]]:
    """Return all rows of the tables that a migration writes to."""
    models = (Item, Call, ShardRecord, FailedObject, Event)
    return [list(model._base_manager.using(db_alias).order_by("pk").values()) for model in models]


def rows_counted(db_alias: str) -> int:
    return Item.objects.using(db_alias).exclude(n=0).count()
