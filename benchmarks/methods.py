"""The ways to change the same rows that are compared."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection, transaction
from django.db.models import QuerySet

from benchmarks.benchapp.models import Item
from massmigration import api
from massmigration.models import MigrationRecord
from massmigration.states import Status


def raw_update(rows: QuerySet[Item]) -> None:
    """One SQL UPDATE of all rows: what the ratios are to."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE benchapp_item SET slug = lower(replace(name, ' ', '-'))")


def save_loop(rows: QuerySet[Item]) -> None:
    for obj in rows:
        obj.slug = obj.name.replace(" ", "-").lower()
        obj.save()


def bulk_update(rows: QuerySet[Item]) -> None:
    for start in range(0, rows.count(), 500):
        with transaction.atomic():
            batch = list(rows.order_by("pk")[start : start + 500])
            for obj in batch:
                obj.slug = obj.name.replace(" ", "-").lower()
            Item.objects.bulk_update(batch, ["slug"])


def read_only(rows: QuerySet[Item]) -> None:
    """Fetch the same objects page by page and run the same function, writing nothing."""
    last = 0
    while batch := list(rows.only("name", "slug").filter(pk__gt=last).order_by("pk")[:2000]):
        for obj in batch:
            obj.name.replace(" ", "-").lower()
        last = batch[-1].pk


def _migrate(key: str) -> None:
    MigrationRecord.objects.filter(key=key).delete()
    api.launch(key)
    record = MigrationRecord.objects.get(key=key)
    assert record.status == Status.APPLIED, record.last_error


def fields_path(rows: QuerySet[Item]) -> None:
    _migrate("benchapp:0001_fields")


def batch_path(rows: QuerySet[Item]) -> None:
    _migrate("benchapp:0002_batch")


Method = Callable[[QuerySet[Item]], None]

SLOW: dict[str, Method] = {"for obj: obj.save()": save_loop, "bulk_update, 500": bulk_update}
FAST: dict[str, Method] = {"update_fields path": fields_path, "operation_batch path": batch_path}
