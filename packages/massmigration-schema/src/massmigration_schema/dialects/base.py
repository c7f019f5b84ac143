"""The base classes of the statements and names of every database."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model, QuerySet

from massmigration.paging.querysets import where_sql
from massmigration_schema.definition import TableDefinition
from massmigration_schema.derivation import Derivation
from massmigration_schema.exceptions import ConflictsLeft, Refused
from massmigration_schema.locks import Answer, LockLimits, TableLock, patiently
from massmigration_schema.plan import ChangePlan, MappedColumn

Rows = list[tuple[Any, ...]]
Key = Sequence[Any]
"""The values of the columns of a row's key, as the database's driver returns them."""


def verbatim(sql: str) -> str:
    """Return SQL that is not a format, such as a text of the catalog, as part of a statement with parameters."""
    return sql.replace("%", "%%")


def same(one: Sequence[str], other: Sequence[str]) -> str:
    """Return the condition that two keys are the same. The columns of a key are never NULL."""
    return " AND ".join(f"{left} = {right}" for left, right in zip(one, other, strict=True))


class Statements:
    """Statements on one database. Every statement is a format, also without parameters: `%` is `%%`."""

    def __init__(self, db_alias: str) -> None:
        self.db_alias = db_alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """The thread's own connection."""
        return connections[self.db_alias]

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it has changed."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> Rows:
        """Return the rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return [tuple(row) for row in cursor.fetchall()]

    def value(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, or None."""
        found = self.rows(sql, params)
        return found[0][0] if found else None

    def quote(self, name: str) -> str:
        """Return a name as an identifier of a statement."""
        return verbatim(self.connection.ops.quote_name(name))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A table, trigger or schema with a name that this package gives."""

    kind: str
    name: str
    tag: str
    """The tag of the change that has made it. Empty: it was made for a question, and should be gone."""

    table: str = ""
    """The table of a trigger."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}{f' on {self.table}' if self.table else ''}"


class Catalog(Statements, ABC):
    """Definitions of tables from the catalog of a database, and facts about a table that a change needs."""

    @abstractmethod
    def read(self, table: str) -> TableDefinition | None:
        """Return the definition of a table, or None if there is no such table."""

    @abstractmethod
    def expected(self, app_label: str, model: type[Model], state: Any) -> TableDefinition:
        """Return the definition that Django's schema editor gives the table of a model.

        The server itself makes it: the model's table is created without rows and without foreign keys under another
        name, read, and dropped. Triggers and foreign keys of other tables are left out.
        """

    @abstractmethod
    def refusals(self, table: str, own_triggers: Collection[str] = ()) -> list[Refused]:
        """Return the reasons in the catalog why the table cannot be copied and swapped.

        `own_triggers`: the triggers of the change itself, if it has begun.
        """

    def refusals_of(self, derivation: Derivation) -> list[Refused]:
        """Return the reasons in the catalog why the table cannot be changed in this way."""
        plan, found = derivation.required_plan(), []
        types = {str(field.column): field.db_type(self.connection) for field in derivation.new_model._meta.fields}
        for column in plan.columns:
            sql = verbatim(column.expression % {"row": ""})
            if sql and (error := self.error_of_expression(plan.table, sql, column.cast, str(types[column.name]))):
                found.append(
                    Refused(
                        "online.transform",
                        f"The transform for the column {column.name!r} cannot be computed by a trigger, because its "
                        f"value depends on more than the row: {error}",
                    )
                )
        return found

    @abstractmethod
    def error_of_expression(self, table: str, sql: str, cast: str, column_type: str) -> str:
        """Return the server's error if an expression depends on more than the row, or an empty string.

        An empty copy of the table gets a generated column with this expression, and is dropped.
        """

    @abstractmethod
    def orphans(self) -> list[Orphan]:
        """Return everything in the database that has a name which this package gives."""

    @abstractmethod
    def drop_orphan(self, orphan: Orphan) -> None:
        """Drop one of them. A trigger needs the lock of its table."""

    @abstractmethod
    def size(self, table: str) -> int:
        """Return the bytes that a table and its indexes have."""

    def free_bytes(self) -> int | None:
        """Return the bytes that are free for tables, or None if the server does not tell."""
        return None

    def has_at_most(self, table: str, rows: int) -> bool:
        """Return whether a table has at most this many rows, without reading more than these."""
        name = self.quote(table)
        found = self.value(f"SELECT COUNT(*) FROM (SELECT 1 FROM {name} LIMIT {rows + 1}) counted")
        return int(found) <= rows


def constrained_foreign_keys(model: type[Model]) -> list[Field[Any, Any]]:
    """Return the model's own fields with a foreign key in the database."""
    fields: Any = model._meta.local_concrete_fields
    return [field for field in fields if field.remote_field is not None and getattr(field, "db_constraint", False)]


class RowSynchronizer(Statements, ABC):
    """Statements that make the rows of the new table equal to the rows of the old table."""

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias)
        self.plan = plan

    @abstractmethod
    def copy(self, queryset: QuerySet[Any]) -> None:
        """Copy the rows of a batch, and wait for nobody. Rows that a writer has locked are logged instead."""

    @abstractmethod
    def resync(self, key: Key) -> None:
        """Make one row of the new table what it is in the old one, or delete it. Wait for its writer, but not long.

        Raise the database's error if the row does not fit.
        """

    @abstractmethod
    def verify(self, queryset: QuerySet[Any]) -> int:
        """Compare the rows of a batch in one statement, and log those that differ. Return their number."""

    def condition(self, queryset: QuerySet[Any], alias: str, *, is_new: bool = False) -> tuple[str, tuple[Any, ...]]:
        """Return the condition of a batch's queryset on the rows `alias` of the old or the new table."""
        columns = dict(zip(self.plan.old_key, self.plan.new_key, strict=True)) if is_new else {}
        sql, params = where_sql(queryset, alias, columns)
        return sql or "1 = 1", params

    def old_key(self, alias: str) -> list[str]:
        """Return the columns of the key of the row `alias` of the old table."""
        return [f"{alias}.{self.quote(name)}" for name in self.plan.old_key]

    def new_key(self, alias: str = "") -> list[str]:
        """Return the columns of the key of the new table."""
        return [f"{alias and alias + '.'}{self.quote(name)}" for name in self.plan.new_key]

    @property
    def marks(self) -> list[str]:
        """The parameters of a key in a statement."""
        return ["%s"] * len(self.plan.old_key)

    @property
    def log_columns(self) -> str:
        """The columns of the change log that are written, separated by commas."""
        return ", ".join([*self.plan.log_key, "why"])

    @property
    def names(self) -> str:
        """The columns of the new table that are written, separated by commas."""
        return ", ".join(self.quote(column.name) for column in self.plan.columns)

    def expressions(self, alias: str) -> str:
        """Return the values of these columns for the row `alias` of the old table, separated by commas."""
        return ", ".join(self.expression(column, alias) for column in self.plan.columns)

    def assignments(self, alias: str, target: str = "") -> str:
        """Return the assignments of these values to the columns, separated by commas."""
        return ", ".join(
            f"{target}{self.quote(column.name)} = {self.expression(column, alias)}" for column in self.plan.updated
        )

    def expression(self, column: MappedColumn, alias: str) -> str:
        """Return the value of a column for the row `alias` of the old table."""
        if column.expression:
            return self.converted(verbatim(column.expression % {"row": f"{alias}."}), column.cast)
        if not column.source:
            return verbatim(column.literal)
        value = self.converted(f"{alias}.{self.quote(column.source)}", column.cast)
        return f"COALESCE({value}, {verbatim(column.literal)})" if column.literal else value

    def converted(self, value: str, cast: str) -> str:
        """Return a value of the old table, converted to another type if there is one."""
        return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnForeignKey:
    """A foreign key of the table that is changed."""

    name: str
    """Its name in the end."""

    old_name: str
    """Its name on the old table, or an empty string."""

    column: str
    table: str
    target: str
    """The column that it refers to."""


class TableBuilder(Statements, ABC):
    """Statements that make and drop the tables and triggers of a change. Each method may be repeated."""

    lock: TableLock
    """The lock of a table on this database."""

    def __init__(self, db_alias: str, derivation: Derivation, limits: LockLimits) -> None:
        super().__init__(db_alias)
        self.derivation = derivation
        self.plan = derivation.required_plan()
        self.limits = limits

    def patient(self, call: Callable[[], Answer], table: str = "") -> Answer:
        """Call something that needs the lock of a whole table, by default of the one that is changed."""
        return patiently(self.lock, table or self.plan.table, call, self.limits)

    @property
    @abstractmethod
    def log_table(self) -> str:
        """The change log's table, as a model's `db_table`."""

    @abstractmethod
    def build(self) -> None:
        """Make the new table with the new definition, without rows, and the change log."""

    @abstractmethod
    def trial(self) -> contextlib.AbstractContextManager[None]:
        """Make the new table under another name, and drop it at the end of the block. Change nothing else."""

    @abstractmethod
    def read_new(self) -> TableDefinition:
        """Return the definition of the new table. Raise `Refused` if the operations have made it another one."""

    @abstractmethod
    def create_triggers(self) -> None:
        """Make the triggers that write every change of the old table to the new one."""

    @abstractmethod
    def create_back(self) -> None:
        """Make the log and the triggers of the way back, as a part of the swap."""

    @abstractmethod
    def old_foreign_keys(self) -> Rows:
        """Return column, name, referenced table and referenced column of the old table's foreign keys."""

    def foreign_keys(self) -> list[OwnForeignKey]:
        """Return the foreign keys of the new table, under the names that they have in the end."""
        old, columns = self.old_foreign_keys(), self.plan.columns
        if not self.derivation.has_model:
            new_names = {column.source: column.name for column in columns}
            return [
                OwnForeignKey(name=name, old_name=name, column=new_names[column], table=table, target=target)
                for column, name, table, target in old
                if column in new_names
            ]
        model = self.derivation.new_model
        editor: Any = self.connection.schema_editor()
        before = {column: name for column, name, *_ in old}
        sources = {column.name: column.source for column in columns}
        found = []
        for field in constrained_foreign_keys(model):
            column = str(field.column)
            target: Any = field.target_field  # type: ignore[attr-defined]  # of a foreign key
            old_name = before.get(sources.get(column, ""), "")
            # Django makes the foreign key again if the column gets another name.
            is_kept = old_name and sources[column] == column
            suffix = f"_fk_{target.model._meta.db_table}_{target.column}"
            made_name = str(editor._fk_constraint_name(model, field, suffix)).strip('`"')
            found.append(
                OwnForeignKey(
                    name=old_name if is_kept else made_name,
                    old_name=old_name,
                    column=column,
                    table=target.model._meta.db_table,
                    target=str(target.column),
                )
            )
        return found

    def require_same_collations(self, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        """Raise `Refused` if the new table compares keys in another way. `old`, `new`: types of columns, by name."""
        for before, after in zip(self.plan.old_key, self.plan.new_key, strict=True):
            pair = [kind.partition(" COLLATE ")[2] for kind in (old[before], new[after])]
            if pair[0] != pair[1]:
                raise Refused(
                    "online.key",
                    f"The collation of the primary key {before} would become {pair[1]}, and is {pair[0]}: other keys "
                    "would be the same. Set db_collation of the field to the collation that the column has.",
                )

    @abstractmethod
    def made(self) -> list[str]:
        """Return the names of the tables and triggers of the change that exist."""

    @abstractmethod
    def trigger_texts(self) -> dict[str, str]:
        """Return the triggers of the change as the server has them, by name: a change of them must be found."""

    @abstractmethod
    def drop(self) -> None:
        """Drop everything that was made, the triggers first. The old table is what it was before."""


class TableSwap(Statements, ABC):
    """Statements that put the new table in the place of the old one, and those that come before and after."""

    def __init__(self, tables: TableBuilder) -> None:
        super().__init__(tables.db_alias)
        self.tables = tables
        self.plan = tables.plan

    @abstractmethod
    def make_ready(self) -> None:
        """Prepare the filled new table for its use: statistics and foreign keys. May be repeated."""

    @abstractmethod
    def is_swapped(self) -> bool:
        """Return whether the new table is in the place of the old one."""

    @abstractmethod
    def log_size(self) -> int:
        """Return the number of entries of the change log."""

    def is_interrupted(self) -> bool:
        """Return whether a process that died in the middle of a swap has left triggers that refuse rows."""
        return False

    def recover(self) -> None:
        """Undo what a process that died in the middle of a swap has left, if the tables are not swapped."""

    @abstractmethod
    def swap(self, record: Callable[[], None], back: TableBuilder | None = None) -> None:
        """Swap the tables, unless they are swapped, and call `record` in the same transaction if there is one.

        Foreign keys of other tables refer to the new table then. Raise `ConflictsLeft` if the change log is not empty,
        and `LockNotGranted`: nothing is changed then.

        `back`: the tables of the way back. Their log and triggers are made, and work from the swap on.
        """

    @abstractmethod
    def finish(self, *, is_kept_current: bool = False) -> None:
        """Do what can be done after the swap without the lock of the table. May be repeated.

        `is_kept_current`: the table that was replaced has the same rows, so that its foreign keys are in nobody's way.
        """

    @abstractmethod
    def cleanup(self) -> None:
        """Drop the old table and the change log, and give foreign keys their final names. May be repeated."""

    @abstractmethod
    def abort(self) -> None:
        """Drop everything that was made before the swap. May be repeated."""

    def require_empty_log(self) -> None:
        """Raise `ConflictsLeft` if there are rows that have not been copied."""
        left = self.log_size()
        if left:
            raise ConflictsLeft(
                "online.conflicts",
                f"{left} rows in the change log do not fit the new table or could not be copied. Nothing was swapped. "
                "Correct the rows that the failed objects name, and retry.",
            )
