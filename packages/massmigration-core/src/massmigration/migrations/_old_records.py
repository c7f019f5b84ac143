"""Converts the table of django-mass-migration 0.3.x, which no schema migration has made.

It stands where the new table of records must go. So it is set aside before the new tables are made, and its rows are
converted when they are there. On engines that roll DDL back this is one transaction. On the others the rows are
converted by the next migration, and each step can be done again after an interruption.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from massmigration.clock import DatabaseNow
from massmigration.states import Status

MODEL = "migrationrecord"
TABLE = f"massmigration_{MODEL}"
ASIDE = "massmigration_old_records"
NEW_TABLES = (TABLE, "massmigration_event", "massmigration_failedobject", "massmigration_shardrecord")

OLD_COLUMNS = frozenset({"key", "is_applied", "has_error"})
NEW_COLUMN = "status"

SQL_VENDORS = frozenset({"mysql", "oracle", "postgresql", "sqlite"})


class OldRecord(models.Model):
    """A row that was set aside. Which of the columns there are depends on the version that made them."""

    key = models.CharField(max_length=250, primary_key=True)
    is_applied = models.BooleanField()
    has_error = models.BooleanField()
    attempt_uuid = models.UUIDField()
    initiated_at = models.DateTimeField(null=True)
    applied_at = models.DateTimeField(null=True)
    last_error = models.TextField()
    was_faked = models.BooleanField()

    class Meta:
        apps = Apps()
        app_label = "massmigration"
        managed = False
        db_table = ASIDE

    def __str__(self) -> str:
        return self.key


class _Step(Operation):
    """Not written as SQL by `sqlmigrate`: what it does depends on what it finds."""

    reduces_to_sql = False
    atomic = False  # a transaction around the whole would forbid DDL on MariaDB

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        connection = schema_editor.connection
        if connection.vendor in SQL_VENDORS and router.allow_migrate(connection.alias, app_label, model_name=MODEL):
            self.step(schema_editor, to_state)

    def database_backwards(self, *args: Any) -> None:
        """The old table is not made again."""

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        raise NotImplementedError


class SetOldRecordsAside(_Step):
    """Makes room for the new table. The first operation, before any table is made."""

    def describe(self) -> str:
        return "Set the records of django-mass-migration aside"

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        connection = schema_editor.connection
        columns = _columns(connection, TABLE)
        if columns >= OLD_COLUMNS and NEW_COLUMN not in columns:
            if not _columns(connection, ASIDE):
                _set_aside(schema_editor)
            elif _has_rows(connection, TABLE):
                raise CommandError(
                    f"Both tables {TABLE} and {ASIDE} hold records of django-mass-migration. Drop the one that is "
                    "out of date, then run migrate again."
                )
            else:
                _drop(schema_editor, TABLE)
        if not connection.features.can_rollback_ddl:
            # What an interrupted run has made is empty: the rows are converted by the next migration.
            for table in NEW_TABLES:
                if _columns(connection, table) and not _has_rows(connection, table):
                    _drop(schema_editor, table)


class ConvertOldRecords(_Step):
    """Makes records and events out of what was set aside.

    `in_transaction`: only where it is one with the making of the tables.
    """

    def __init__(self, *, in_transaction: bool = False) -> None:
        self.in_transaction = in_transaction

    def describe(self) -> str:
        return "Convert the records of django-mass-migration"

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        connection = schema_editor.connection
        columns = _columns(connection, ASIDE)
        if not columns or (self.in_transaction and not connection.features.can_rollback_ddl):
            return
        with transaction.atomic(using=connection.alias):
            _convert(connection.alias, columns, to_state)
        _drop(schema_editor, ASIDE)


def _set_aside(schema_editor: BaseDatabaseSchemaEditor) -> None:
    quote = schema_editor.connection.ops.quote_name
    if schema_editor.connection.features.can_rollback_ddl:
        # A table that is renamed keeps its indexes, whose names the new one needs on PostgreSQL.
        schema_editor.execute(f"CREATE TABLE {quote(ASIDE)} AS SELECT * FROM {quote(TABLE)}")
        _drop(schema_editor, TABLE)
    else:
        schema_editor.execute(f"ALTER TABLE {quote(TABLE)} RENAME TO {quote(ASIDE)}")


def _convert(db_alias: str, columns: set[str], to_state: ProjectState) -> None:
    records = to_state.apps.get_model("massmigration", "MigrationRecord")._default_manager.using(db_alias)
    events = to_state.apps.get_model("massmigration", "Event")._default_manager.using(db_alias)
    names = [field.name for field in OldRecord._meta.fields if field.name in columns]
    present = set(records.values_list("pk", flat=True))  # an interruption can have come after the commit
    old_rows = [row for row in OldRecord._default_manager.using(db_alias).values(*names) if row["key"] not in present]
    made = [records.model(**_converted(row)) for row in old_rows]
    records.bulk_create(made)
    events.bulk_create(
        events.model(
            key=record.key,
            attempt_id=record.attempt_id,
            at=DatabaseNow(),
            actor="command:migrate",
            verb="convert",
            to_status=record.status,
            detail=_detail(row),
        )
        for record, row in zip(made, old_rows, strict=True)
    )


def _converted(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of the new record. Nothing tells when a migration failed; what was running is cancelled now."""
    status = _status(row)
    finished = {Status.APPLIED: row.get("applied_at"), Status.CANCELLED: DatabaseNow()}
    return {
        "key": row["key"],
        "status": status.value,
        "attempt_id": row.get("attempt_uuid") or uuid.uuid4(),
        "is_managed": False,
        "launched_at": row.get("initiated_at"),
        "started_at": row.get("initiated_at"),
        "finished_at": finished.get(status),
        "last_error": row.get("last_error") or "",
        "was_faked": bool(row.get("was_faked")),
    }


def _status(row: dict[str, Any]) -> Status:
    # The mapper went on after an error, and marked it as applied too at the end.
    if row["has_error"]:
        return Status.FAILED
    return Status.APPLIED if row["is_applied"] else Status.CANCELLED


def _detail(row: dict[str, Any]) -> str:
    found = [name for name in ("is_applied", "has_error") if row[name]]
    text = f"django-mass-migration had it with {' and '.join(found) or 'neither is_applied nor has_error'}."
    if _status(row) is Status.FAILED and row["is_applied"]:
        return f"{text} It failed on some objects, which were skipped."
    return text


def _columns(connection: BaseDatabaseWrapper, table: str) -> set[str]:
    """The columns of a table; empty if there is none."""
    with connection.cursor() as cursor:
        if connection.introspection.identifier_converter(table) not in connection.introspection.table_names(cursor):
            return set()
        return {column.name.lower() for column in connection.introspection.get_table_description(cursor, table)}


def _drop(schema_editor: BaseDatabaseSchemaEditor, table: str) -> None:
    schema_editor.execute(f"DROP TABLE {schema_editor.connection.ops.quote_name(table)}")


def _has_rows(connection: BaseDatabaseWrapper, table: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {connection.ops.quote_name(table)}")
        return cursor.fetchone() is not None
