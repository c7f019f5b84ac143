"""The ways to change the same rows that are compared. Each works on a slice of the table's ids."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection, transaction
from django.db.models import QuerySet

from benchmarks.benchapp import knobs
from benchmarks.benchapp.models import Item
from massmigration import api
from massmigration.models import MigrationRecord
from massmigration.states import Status

Span = tuple[int, int]
Method = Callable[[Span], None]


def items(span: Span) -> QuerySet[Item]:
    return Item.objects.filter(pk__gt=span[0], pk__lte=span[1])


def slug_of(name: str) -> str:
    return name.replace(" ", "-").lower()


def raw_update(span: Span) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE benchapp_item SET slug = lower(replace(name, ' ', '-')) WHERE id > %s AND id <= %s", span
        )


def save_loop(span: Span) -> None:
    for obj in items(span):
        obj.slug = slug_of(obj.name)
        obj.save()


def save_fields_loop(span: Span) -> None:
    for obj in items(span).iterator():
        obj.slug = slug_of(obj.name)
        obj.save(update_fields=["slug"])


def _pages(span: Span, size: int) -> list[Span]:
    return [(start, min(start + size, span[1])) for start in range(span[0], span[1], size)]


def bulk_update(span: Span) -> None:
    for page in _pages(span, 500):
        with transaction.atomic():
            batch = list(items(page).order_by("pk"))
            for obj in batch:
                obj.slug = slug_of(obj.name)
            Item.objects.bulk_update(batch, ["slug"])


def bulk_upsert(span: Span) -> None:
    unique = None if connection.vendor == "mysql" else ["id"]
    for page in _pages(span, 1000):
        with transaction.atomic():
            batch = list(items(page).order_by("pk"))
            for obj in batch:
                obj.slug = slug_of(obj.name)
            Item.objects.bulk_create(batch, update_conflicts=True, update_fields=["slug"], unique_fields=unique)


def read_only(span: Span) -> None:
    """Fetch the same objects page by page and run the same function, writing nothing."""
    last, end = span
    while batch := list(Item.objects.only("name", "slug").filter(pk__gt=last, pk__lte=end).order_by("pk")[:2000]):
        for obj in batch:
            obj.slug = slug_of(obj.name)
        last = batch[-1].pk


def migrate(name: str, span: Span) -> None:
    """Run one of the benchmark's migrations on a slice, in this process, and assert that it is applied."""
    knobs.span = span
    key = f"benchapp:{name}"
    MigrationRecord.objects.filter(key=key).delete()
    api.launch(key)
    record = MigrationRecord.objects.get(key=key)
    assert record.status == Status.APPLIED, record.last_error


def fields_path(span: Span) -> None:
    migrate("0001_fields", span)


def expression_path(span: Span) -> None:
    migrate("0002_batch", span)


def save_path(span: Span) -> None:
    migrate("0003_save", span)


RAW = "one raw UPDATE"
FIELDS = "massmigration, `update_fields`"
EXPRESSION = "massmigration, `operation_batch` with `update()`"
SAVE_LOOP = "`for obj in queryset: obj.save()`"
BULK_UPDATE = "`bulk_update`, 500"
PREDECESSOR = "django-mass-migration 0.3.9"
AGAIN = "the same again, nothing changed, to reading only"

# By the attribute of `Sizes` that has the number of rows of each method.
METHODS: dict[str, tuple[str, Method]] = {
    EXPRESSION: ("fast", expression_path),
    FIELDS: ("fast", fields_path),
    "massmigration, `operation` with `obj.save()`": ("slow", save_path),
    SAVE_LOOP: ("slow", save_loop),
    "`iterator()`, `save(update_fields)`": ("slow", save_fields_loop),
    BULK_UPDATE: ("mid", bulk_update),
    "`bulk_create(update_conflicts)`, 1000": ("mid", bulk_upsert),
}
