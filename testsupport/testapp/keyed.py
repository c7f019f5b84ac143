"""Models that not every engine or version of Django has alike. Tests make their tables, and drop them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import django
from django.apps.registry import Apps
from django.db import connections, models

FOLDED = {"sqlite": "nocase", "postgresql": "massmigration_folded", "mysql": "utf8mb4_general_ci"}
"""A collation of each engine that takes upper and lower case for the same."""

_FOLD = (
    "CREATE COLLATION IF NOT EXISTS massmigration_folded "
    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
)


class BytesField(models.BinaryField):
    """Bytes that every engine can have an index on."""

    def db_type(self, connection):
        return "varbinary(40)" if connection.vendor == "mysql" else super().db_type(connection)


class RealField(models.FloatField):
    """A field of single precision, on databases that have such numbers."""

    def db_type(self, connection):
        return "float" if connection.vendor == "mysql" else "real"


class Visible(models.Manager):
    """A manager that leaves out hidden objects."""

    def get_queryset(self):
        return super().get_queryset().exclude(note="hidden")


class Counted(models.Model):
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    class Meta:
        abstract = True
        app_label = "testapp"


class _Own:
    """Options of models outside of Django's registry, so that no schema migration is needed."""

    app_label = "testapp"
    apps = Apps()


class Folded(Counted):
    """A model whose key is a text that is compared without case."""

    text = models.CharField(max_length=20, primary_key=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return self.text


class Blob(Counted):
    digest = BytesField(max_length=40, primary_key=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return str(self.digest)


class Weight(Counted):
    kilos = RealField(primary_key=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return str(self.kilos)


class Mass(Counted):
    kilos = models.FloatField(primary_key=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return str(self.kilos)


class Sum(Counted):
    amount = models.DecimalField(max_digits=20, decimal_places=2, primary_key=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return str(self.amount)


class Root(Counted):
    """A model whose key, and whose children's keys, are texts."""

    code = models.CharField(max_length=20, primary_key=True)
    data = models.JSONField(null=True)

    class Meta(_Own):
        pass

    def __str__(self):
        return self.code


class Branch(Root):
    width = models.IntegerField(default=0)

    class Meta(_Own):
        pass


class Leaf(Branch):
    colour = models.CharField(max_length=20, default="")

    class Meta(_Own):
        pass


class Ticket(Counted):
    """A model with several fields that can be a `cursor_field`."""

    code = models.CharField(max_length=20, unique=True)
    number = models.IntegerField(unique=True)
    amount = models.DecimalField(max_digits=8, decimal_places=3)
    maybe = models.IntegerField(null=True, unique=True)
    late = models.IntegerField(default=0)
    data = models.JSONField(default=dict)

    objects = models.Manager()
    visible = Visible()

    class Meta(_Own):
        ordering = ("note", "-number")
        constraints = (
            models.UniqueConstraint(fields=["amount"], name="testapp_ticket_amount"),
            models.UniqueConstraint(fields=["late"], condition=models.Q(late__gt=0), name="testapp_ticket_late"),
        )

    def __str__(self):
        return self.code


def composite() -> Any:
    """Return a model whose primary key is a pair, or None before Django 5.2."""
    if django.VERSION < (5, 2):
        return None

    class Pair(Counted):
        pk = models.CompositePrimaryKey("left", "right")
        left = models.IntegerField()
        right = models.CharField(max_length=10)

        class Meta(_Own):
            apps = Apps()

    return Pair


@contextlib.contextmanager
def table(model: Any, db_alias: str) -> Iterator[None]:
    """Create the model's table, and drop it at the end of the block."""
    connection = connections[db_alias]
    if model is Folded:
        model._meta.get_field("text").db_collation = FOLDED[connection.vendor]
    if model is Folded and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_FOLD)
    with _unconstrained(connection), connection.schema_editor() as editor:
        editor.create_model(model)
    try:
        yield
    finally:
        with _unconstrained(connection), connection.schema_editor() as editor:
            editor.delete_model(model)


def _unconstrained(connection: Any) -> contextlib.AbstractContextManager[None]:
    """Disable constraint checks on SQLite, which requires that for a change of the schema."""
    is_wanted = connection.vendor == "sqlite"
    return connection.constraint_checks_disabled() if is_wanted else contextlib.nullcontext()  # type: ignore[no-any-return]
