"""The Python blocks of the documentation, which must run, and whose migrations must be applied."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from django.apps import AppConfig, apps
from django.db import connection, connections, models
from django.db.migrations import Migration as DjangoMigration
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser

from massmigration import checks
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import GateClosed
from massmigration.gates import RequireMassMigration
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.operations import DataOperation
from massmigration.states import Status
from massmigration.testing import run_migration

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "packages/*/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts and path.name != "house-style.md"  # its examples use names that do not exist
)


PRODUCTS = (
    "CREATE TABLE shop_product (id integer PRIMARY KEY AUTOINCREMENT, name text, slug text, price text, "
    "cents integer, currency text, title text, legacy_code text)"
)


class Product(models.Model):
    """The model that the documentation's migrations change."""

    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, default="")
    price = models.CharField(max_length=20, default="12.50")
    cents = models.IntegerField(null=True)
    currency = models.CharField(max_length=3, null=True)
    title = models.CharField(max_length=100, null=True)

    class Meta:
        app_label = "shop"

    def __str__(self):
        return self.name


class ArchivedProduct(models.Model):
    """The model that products are copied to."""

    name = models.CharField(max_length=100)
    label = models.CharField(max_length=100)
    cents = models.IntegerField(null=True)
    reason = models.CharField(max_length=10)

    class Meta:
        app_label = "shop"

    def __str__(self):
        return self.name


class Migrating(PythonEvaluator):
    """An evaluator that runs a block, and then the migration that the block defines."""

    def __call__(self, example):
        example.namespace.pop("Migration", None)
        super().__call__(example)
        found = example.namespace.get("Migration")
        if found is not None:
            (migrate if issubclass(found, DjangoMigration) else run)(found)


def migrate(migration_class: type[DjangoMigration]) -> None:
    """Check that the migration's gates are closed, apply what they require, and run the migration."""
    editor = SimpleNamespace(connection=connection)
    state = SimpleNamespace(apps=apps)
    for operation in migration_class("9000_of_the_docs", "shop").operations:
        if isinstance(operation, RequireMassMigration):
            MigrationRecord.objects.filter(key=operation.mass_migration_key).delete()
            with pytest.raises(GateClosed):
                operation.database_forwards("shop", editor, state, state)
            MigrationRecord.objects.create(key=operation.mass_migration_key, status=Status.APPLIED)
        if isinstance(operation, (RequireMassMigration, DataOperation)):
            operation.database_forwards("shop", editor, state, state)


def run(migration_class: type[BaseMigration]) -> None:
    migration = migration_class("shop", "9000_of_the_docs")
    for key in migration.needed_keys:
        MigrationRecord.objects.update_or_create(key=key, defaults={"status": Status.APPLIED})
    MigrationRecord.objects.filter(key=migration.key).delete()
    with store.registered(migration):
        problems = [message for message in checks.check_migration(migration) if message.id != "massmigration.W002"]
        record = run_migration(migration.key)
    assert (problems, record.status, record.last_error) == ([], Status.APPLIED, "")


@pytest.fixture
def shop(db, monkeypatch, tmp_path):
    """A module `shop.models`, and some products."""
    module = ModuleType("shop.models")
    module.Product = Product
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.models", module)
    app_module = ModuleType("shop")
    app_module.__file__ = str(tmp_path / "__init__.py")
    config = AppConfig("shop", app_module)
    config.apps, config.models = apps, apps.all_models["shop"]
    monkeypatch.setitem(apps.app_configs, "shop", config)
    # Another database as the target of copies.
    file = {**connections.settings["default"], "NAME": str(tmp_path / "reporting.sqlite3")}
    monkeypatch.setitem(connections.settings, "reporting", file)
    connections["reporting"] = connections.create_connection("reporting")
    connections["reporting"].connect()  # before the test case, which forbids connections made on demand
    with connections["reporting"].cursor() as cursor:
        cursor.execute(PRODUCTS)
    with connection.cursor() as cursor:
        # Without a schema editor, which SQLite does not allow in a transaction.
        cursor.execute(PRODUCTS)
        cursor.execute(
            "CREATE TABLE shop_archivedproduct "
            "(id integer PRIMARY KEY AUTOINCREMENT, name text, label text, cents integer, reason text)"
        )
    Product.objects.bulk_create(Product(name=f" Product {index}") for index in range(3))
    yield
    connections["reporting"].close()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_snippets_run(path, shop):
    sybil = Sybil([CodeBlockParser("python", Migrating()), SkipParser()], path=str(ROOT))

    # In one test, because a block may use the imports of earlier blocks.
    for example in sybil.parse(path).examples():
        example.evaluate()
