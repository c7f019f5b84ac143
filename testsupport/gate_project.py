"""A project whose schema migration waits behind a gate, on a database of its own."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Any

from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from massmigration import record_cache
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord
from testsupport.inline_migrations import IMMEDIATE
from testsupport.v03_versions import other_database

KEY = "gated:0001_cents"
GATED = importlib.import_module("testsupport.gate_app.migrations.0003_cents_not_null").Migration
COLUMN = importlib.import_module("testsupport.gate_app.migrations.0002_cents").Migration


def project(db_alias: str) -> Iterator[Project]:
    own = {
        "INSTALLED_APPS": ["massmigration", "testsupport.gate_app"],
        "MASSMIGRATION_APPLY_ON_FRESH_DATABASE": True,
        "MASSMIGRATION_BACKEND": IMMEDIATE,
    }
    with other_database(db_alias), override_settings(**own):
        store.reset()
        record_cache.clear()
        try:
            yield Project(db_alias)
        finally:
            record_cache.clear()
            store.reset()


class Project:
    """A project as its operator uses it."""

    def __init__(self, db_alias: str) -> None:
        self.db_alias = db_alias

    def migrate(self, *arguments: str, **options: Any) -> str:
        stdout = io.StringIO()
        call_command("migrate", *arguments, database=self.db_alias, verbosity=1, stdout=stdout, **options)
        return stdout.getvalue()

    def massmigrate(self, *arguments: str, **options: Any) -> str:
        stdout = io.StringIO()
        streams = {"stdout": stdout, "stderr": io.StringIO()}
        call_command("massmigrate", *arguments, database=self.db_alias, **streams, **options)
        return stdout.getvalue()

    def execute(self, sql: str) -> list[Any]:
        with connections[self.db_alias].cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def add_parcels(self, count: int) -> None:
        for _ in range(count):
            self.execute("INSERT INTO gated_parcel (price) VALUES ('1.50')")

    @property
    def cents(self) -> list[int | None]:
        return [cents for (cents,) in self.execute("SELECT cents FROM gated_parcel ORDER BY id")]

    @property
    def applied(self) -> list[str]:
        """Return the names of the app's applied schema migrations."""
        found = MigrationRecorder(connections[self.db_alias]).applied_migrations()
        return sorted(name for label, name in found if label == "gated")

    @property
    def columns(self) -> dict[str, bool]:
        """Whether each may be null."""
        connection = connections[self.db_alias]
        with connection.cursor() as cursor:
            found = connection.introspection.get_table_description(cursor, "gated_parcel")
        return {column.name: bool(column.null_ok) for column in found}

    @property
    def statuses(self) -> dict[str, str]:
        return dict(MigrationRecord.objects.using(self.db_alias).values_list("key", "status"))

    @property
    def events(self) -> list[tuple[str, str, str]]:
        events = Event.objects.using(self.db_alias).order_by("pk")
        return list(events.values_list("key", "verb", "actor"))
