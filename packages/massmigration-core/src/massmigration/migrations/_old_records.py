"""Conversion of the table of django-mass-migration 0.3.x, which was created without a schema migration.

The old table has the name of the new table of records. So it is renamed or copied before the new tables are created,
and its rows are converted afterwards. On databases that can roll back DDL, this is one transaction. On others the next
migration converts the rows, and each step can be repeated after an interruption.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db import router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from massmigration.dialects import dialect_for
from massmigration.dialects.times import DatabaseNow
from massmigration.v03_records import V03Record, detail_of, fields_of

MODEL = "migrationrecord"
TABLE = f"massmigration_{MODEL}"
ASIDE = "massmigration_old_records"
NEW_TABLES = (
    TABLE,
    "massmigration_event",
    "massmigration_failedobject",
    "massmigration_shardrecord",
    "massmigration_switch",
)

OLD_COLUMNS = frozenset({"key", "is_applied", "has_error"})
NEW_COLUMN = "status"


class OldRecord(V03Record):
    """A row of the table that was set aside."""

    class Meta(V03Record.Meta):
        db_table = ASIDE


class _Step(Operation):
    """An operation that `sqlmigrate` cannot show as SQL, because its effect depends on the existing tables."""

    reduces_to_sql = False
    atomic = False  # a transaction around the operation would forbid DDL on MariaDB

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
        if dialect_for(connection).has_sql and router.allow_migrate(connection.alias, app_label, model_name=MODEL):
            self.step(schema_editor, to_state)

    def database_backwards(self, *args: Any) -> None:
        """Do nothing: the old table is not restored."""

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        raise NotImplementedError


class SetOldRecordsAside(_Step):
    """The operation that moves the old table out of the way. It is the first one, before any table is created."""

    def describe(self) -> str:
        return "Set the records of django-mass-migration aside"

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        connection = schema_editor.connection
        if _is_old(_columns(connection, TABLE)):
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
            # Tables that an interrupted run created are empty, because the next migration converts the rows.
            for table in NEW_TABLES:
                if _columns(connection, table) and not _has_rows(connection, table):
                    _drop(schema_editor, table)


class ConvertOldRecords(_Step):
    """The operation that converts the old rows to records and events.

    `in_transaction`: convert only if the database creates the tables in the same transaction (default: False). If
    False, also do the work of the first migration if Django has skipped it, because the project had recorded a
    migration of its own with the same name for the old table.
    """

    def __init__(self, *, in_transaction: bool = False) -> None:
        self.in_transaction = in_transaction

    def describe(self) -> str:
        return "Convert the records of django-mass-migration"

    def step(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        connection = schema_editor.connection
        if not self.in_transaction:
            self._make_up_for_the_first(schema_editor, to_state)
        columns = _columns(connection, ASIDE)
        if not columns or (self.in_transaction and not connection.features.can_rollback_ddl):
            return
        with transaction.atomic(using=connection.alias):
            _convert(connection.alias, columns, to_state)
        _drop(schema_editor, ASIDE)

    def _make_up_for_the_first(self, schema_editor: BaseDatabaseSchemaEditor, to_state: ProjectState) -> None:
        connection = schema_editor.connection
        if _is_old(_columns(connection, TABLE)) or _columns(connection, ASIDE):
            SetOldRecordsAside().step(schema_editor, to_state)
        if not _columns(connection, ASIDE):
            return
        for model in to_state.apps.get_app_config("massmigration").get_models():  # in the order of their creation
            if not _columns(connection, model._meta.db_table):
                schema_editor.create_model(model)
        for statement in schema_editor.deferred_sql:  # before rows are added: empty tables can be created again
            schema_editor.execute(statement)
        schema_editor.deferred_sql.clear()


def _is_old(columns: set[str]) -> bool:
    return columns >= OLD_COLUMNS and NEW_COLUMN not in columns


def _set_aside(schema_editor: BaseDatabaseSchemaEditor) -> None:
    quote = schema_editor.connection.ops.quote_name
    if schema_editor.connection.features.can_rollback_ddl:
        # A renamed table keeps its indexes, and on PostgreSQL the new table needs the names of these indexes.
        schema_editor.execute(f"CREATE TABLE {quote(ASIDE)} AS SELECT * FROM {quote(TABLE)}")
        _drop(schema_editor, TABLE)
    else:
        schema_editor.execute(f"ALTER TABLE {quote(TABLE)} RENAME TO {quote(ASIDE)}")


def _convert(db_alias: str, columns: set[str], to_state: ProjectState) -> None:
    records = to_state.apps.get_model("massmigration", "MigrationRecord")._default_manager.using(db_alias)
    events = to_state.apps.get_model("massmigration", "Event")._default_manager.using(db_alias)
    names = [field.name for field in OldRecord._meta.fields if field.name in columns]
    present = set(records.values_list("pk", flat=True))  # a run may have been interrupted after the commit
    old_rows = [row for row in OldRecord._default_manager.using(db_alias).values(*names) if row["key"] not in present]
    made = [records.model(**fields_of(row)) for row in old_rows]
    records.bulk_create(made)
    events.bulk_create(
        events.model(
            key=record.key,
            attempt_id=record.attempt_id,
            at=DatabaseNow(),
            actor="command:migrate",
            verb="convert",
            to_status=record.status,
            detail=detail_of(row),
        )
        for record, row in zip(made, old_rows, strict=True)
    )


def _columns(connection: BaseDatabaseWrapper, table: str) -> set[str]:
    """Return the columns of a table, or an empty set if there is no such table."""
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
