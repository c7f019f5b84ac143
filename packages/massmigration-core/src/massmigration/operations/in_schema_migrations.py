"""Lets operations on data stand in Django's own migrations: in the foreground, in batches, resumable.

While such an operation is under way, a record says how far it is, in a key of its own: `app_label:0004_name.1`, for
the first operation of that migration. Once Django has noted the migration as applied, the record is forgotten.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from django.db import connections, router
from django.db.migrations.loader import MigrationLoader

from massmigration import tables
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.exceptions import DataOperationFailed, MassMigrationError
from massmigration.models import MigrationRecord
from massmigration.operations.context import Context
from massmigration.operations.foreground import Foreground
from massmigration.querysets import prepare
from massmigration.recorder import attempts
from massmigration.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from massmigration.operations.base import DataOperation

ACTOR = "command:migrate"


def forwards(operation: DataOperation, app_label: str, schema_editor: Any, state: Any) -> None:
    """Do the operation, or go on with it. Return when it is done, and raise otherwise."""
    db_alias = schema_editor.connection.alias
    migration = OfSchemaMigration(operation, app_label, state)
    try:
        if router.allow_migrate(db_alias, app_label) and migration.is_on(db_alias):
            _run(migration, db_alias)
    except DataOperationFailed:
        raise
    except MassMigrationError as error:
        raise DataOperationFailed(str(error)) from error


def _run(migration: OfSchemaMigration, db_alias: str) -> None:
    stages = migration.get_stages()
    has_tables = tables.exist(db_alias)
    is_begun = has_tables and MigrationRecord.objects.using(db_alias).filter(key=migration.key).exists()
    if not is_begun and not _has_rows(stages, db_alias):
        return
    _check_transaction(migration, db_alias)
    if not has_tables:
        raise DataOperationFailed(
            f"Migration {migration.key!r} needs the tables of massmigration on database {db_alias!r}. Run: "
            f"manage.py migrate massmigration --database {db_alias}; then migrate again."
        )
    migration.check_db_alias(db_alias)
    Foreground(migration, db_alias, actor=ACTOR).run()


def backwards(operation: DataOperation, app_label: str, schema_editor: Any, state: Any) -> None:
    """Take nothing back, but do it anew when the migration is applied again."""
    forget(OfSchemaMigration(operation, app_label, state).key, schema_editor.connection.alias)


class OfSchemaMigration(BaseMigration):
    """One operation of a migration of Django's, as a migration of its own."""

    source_hash = ""

    def __init__(self, operation: DataOperation, app_label: str, state: Any) -> None:
        super().__init__(app_label, _name(operation, app_label))
        self._operation = operation
        self._apps = state.apps

    def is_on(self, db_alias: str) -> bool:
        """Whether the routers have its rows on this database."""
        return router.allow_migrate_model(db_alias, self._operation.subject(self._context([db_alias])))

    def get_stages(self) -> Sequence[Stage]:
        return self._operation.get_stages(self._context(self.get_allowed_db_aliases()))

    def check_db_alias(self, db_alias: str) -> None:
        self._operation.check_database(self._context([db_alias]), db_alias)

    def _context(self, db_aliases: Sequence[str]) -> Any:
        return Context(name=self.key, app_label=self.app_label, apps=self._apps, db_aliases=db_aliases)


def _name(operation: DataOperation, app_label: str) -> str:
    """The name of the migration that it stands in, and its place there."""
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    for (label, name), migration in loader.disk_migrations.items():
        for index, each in enumerate(migration.operations):
            if each is operation and label == app_label:
                return f"{name}.{index + 1}"
    digest = hashlib.sha256(repr(operation.given).encode()).hexdigest()[:12]  # in no file, as in tests
    return f"{type(operation).__name__}_{digest}.1"


def _has_rows(stages: Sequence[Stage], db_alias: str) -> bool:
    return any(
        prepare(stage.get_queryset(db_alias), db_alias, name=stage.name, may_leave=not stage.atomic).exists()
        for stage in stages
        if isinstance(stage, MappedStage)
    )


def _check_transaction(migration: BaseMigration, db_alias: str) -> None:
    blocks = connections[db_alias].atomic_blocks
    if all(getattr(block, "_from_testcase", False) for block in blocks):
        return
    raise DataOperationFailed(
        f"Migration {migration.key!r} is in one transaction with all of its Django migration, and so cannot commit "
        "batch by batch. Set atomic = False on the Django migration, or move the operation to a migration of its own."
    )


def forget(key: str, db_alias: str) -> None:
    """Forget how far an operation has got, unless it is under way."""
    if not tables.exist(db_alias):
        return
    record = MigrationRecord.objects.using(db_alias).filter(key=key).first()
    if record is not None and record.status not in ACTIVE:
        attempts.forget(db_alias, key, actor=ACTOR)
