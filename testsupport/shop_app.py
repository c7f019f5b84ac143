"""The app `shop` on disk, whose tables `testsupport.shop` makes: its first migration, and one that a test writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.writer import MigrationWriter
from django.test import override_settings

from massmigration.loader import store
from massmigration_schema.files import SchemaMigrationFile
from massmigration_schema.migration import OnlineMigration
from testsupport.shop import TABLES, Shop


class ShopFile(SchemaMigrationFile):
    """A schema migration of the shop that is in no file. Its loader is the state before it."""

    needed = ()
    dependent = ()
    source = b""

    def before(self) -> Any:
        return self.loader


FILE = """
from django.db import migrations, models
from massmigration_schema import Online, OnlineMigration


class Migration(OnlineMigration):
    dependencies = [("shop", "0001_initial")]
    online = Online({options})
    operations = [{operations}]
"""


@contextmanager
def installed(
    shop: Shop, folder: Path, operations: str, *, tables: Sequence[Any] = TABLES, **options: Any
) -> Iterator[None]:
    """Install the app, whose second migration has these operations, with its first one applied on the database."""
    package = folder / "shop"
    (package / "migrations").mkdir(parents=True)
    for path in (package / "__init__.py", package / "models.py", package / "migrations" / "__init__.py"):
        path.touch()
    initial = type("Migration", (OnlineMigration.__base__,), {"operations": list(tables), "initial": True})
    (package / "migrations" / "0001_initial.py").write_text(
        MigrationWriter(initial("0001_initial", "shop"), include_header=False).as_string()
    )
    listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    (package / "migrations" / "0002_change.py").write_text(FILE.format(options=listed, operations=operations))
    sys.path.insert(0, str(folder))
    recorder = MigrationRecorder(shop.connection)
    try:
        with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "shop"]):
            recorder.record_applied("shop", "0001_initial")
            store.reset()
            yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
            del sys.modules[name]
        MigrationRecorder.Migration.objects.using(shop.db_alias).filter(app="shop").delete()
        apps.clear_cache()
        store.reset()
