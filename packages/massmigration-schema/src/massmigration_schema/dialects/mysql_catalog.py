"""`BaseMySQLCatalog`: definitions of tables as the information schema of MySQL and MariaDB has them."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection
from typing import Any, ClassVar

from django.db import DatabaseError
from django.db.models import Model

from massmigration_schema.definition import ColumnDefinition, TableDefinition
from massmigration_schema.dialects.base import Catalog, Orphan, constrained_foreign_keys, verbatim
from massmigration_schema.dialects.mysql_checks import CheckNames
from massmigration_schema.dialects.mysql_editor import OtherTableGuard, shadow_editor, without_checks
from massmigration_schema.dialects.mysql_names import clone_name
from massmigration_schema.exceptions import Refused
from massmigration_schema.states import with_table

COLUMNS = """
    SELECT column_name, column_type, is_nullable, column_default, extra, generation_expression, collation_name,
        column_comment
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position
"""
INDEXES = """
    SELECT index_name, non_unique, index_type, {}, sub_part, collation FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = %s ORDER BY index_name, seq_in_index
"""
FOREIGN_KEYS = """
    SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_name, k.referenced_column_name,
        r.delete_rule, r.update_rule
    FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r
        ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name
        AND r.table_name = k.table_name
    WHERE k.table_schema = DATABASE() AND {} = %s AND k.referenced_table_name IS NOT NULL
    ORDER BY 1, 2, k.ordinal_position
"""
TRIGGERS = """
    SELECT trigger_name, CONCAT(action_timing, ' ', event_manipulation, ' ', action_statement)
    FROM information_schema.triggers WHERE event_object_schema = DATABASE() AND event_object_table = %s ORDER BY 1
"""
OPTIONS = """
    SELECT engine, table_collation, table_comment, row_format, create_options, table_type
    FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s
"""
SETTINGS = """
    SHOW SESSION VARIABLES WHERE variable_name IN ('log_bin', 'binlog_format', 'log_bin_trust_function_creators',
        'sql_mode')
"""
NEEDED = ("ALTER", "CREATE", "DELETE", "DROP", "INDEX", "INSERT", "SELECT", "TRIGGER", "UPDATE")
MAX_FOREIGN_KEY = 61
"""The longest name of a foreign key that can be given a suffix."""

FOREIGN = """
    SELECT CONCAT(table_schema, '.', table_name, '.', constraint_name) FROM information_schema.key_column_usage
    WHERE table_name = %s AND table_schema = DATABASE() AND referenced_table_schema <> DATABASE()
        OR referenced_table_name = %s AND referenced_table_schema = DATABASE() AND table_schema <> DATABASE()
    GROUP BY 1 ORDER BY 1
"""
"""Foreign keys between the table and tables of other databases."""

DISKS = """
    SELECT Available * 1024 FROM information_schema.disks WHERE @@datadir LIKE CONCAT(Path, '%%')
    ORDER BY LENGTH(Path) DESC LIMIT 1
"""

CHECKED = frozenset({"RESTRICT", "NO ACTION"})
"""Actions of foreign keys that only refuse."""


class BaseMySQLCatalog(Catalog):
    """The catalog of MySQL, and of MariaDB."""

    title: ClassVar[str]
    oldest: ClassVar[tuple[int, ...]]
    """The oldest version of the server on which tables can be changed."""

    part_of_index: ClassVar[str]
    """The expression of a column's name, or of the expression in place of a column, in the list of indexes."""

    def read(self, table: str) -> TableDefinition | None:
        found = self.rows(OPTIONS, [table])
        if not found:
            return None
        constraints, indexes = self._indexes(table)
        return TableDefinition(
            columns=self._columns(table),
            constraints={**constraints, **self.checks(table)},
            indexes=indexes,
            foreign_keys={
                name: text for child, name, text, _ in self.foreign_keys("k.table_name", table) if child == table
            },
            incoming={
                f"{child}.{name}": text
                for child, name, text, _ in self.foreign_keys("k.referenced_table_name", table)
                if child != table
            },
            triggers={name: str(text) for name, text in self.rows(TRIGGERS, [table])},
            options=_options(*found[0]),
        )

    @abstractmethod
    def checks(self, table: str) -> dict[str, str]:
        """Return the check constraints of a table, by name."""

    @abstractmethod
    def default_of(self, default: str | None, extra: str, *, is_nullable: bool) -> str:
        """Return the default of a column as the catalog has it, or an empty string."""

    def check_names(self) -> CheckNames:
        """Return the names of check constraints on a table that has been made for a question."""
        return CheckNames()

    def _columns(self, table: str) -> dict[str, ColumnDefinition]:
        found = {}
        for name, kind, is_nullable, default, extra, expression, collation, comment in self.rows(COLUMNS, [table]):
            found[name] = ColumnDefinition(
                type=str(kind),
                is_nullable=is_nullable == "YES",
                default=self.default_of(default, extra, is_nullable=is_nullable == "YES"),
                generated=f"{extra} {expression}" if expression else "",
                identity="auto_increment" if "auto_increment" in extra.lower() else "",
                collation=collation or "",
                comment=comment or "",
            )
        return found

    def _indexes(self, table: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return the primary key and the unique constraints, and the other indexes."""
        parts: dict[str, list[str]] = defaultdict(list)
        kinds: dict[str, tuple[bool, str]] = {}
        for name, non_unique, kind, column, length, order in self.rows(INDEXES.format(self.part_of_index), [table]):
            kinds[name] = not int(non_unique), kind
            limit = f"({length})" if length else ""
            parts[name].append(f"{column}{limit}{' DESC' if order == 'D' else ''}")
        constraints, indexes = {}, {}
        for name, (is_unique, kind) in kinds.items():
            listed = f"({', '.join(parts[name])})"
            if name == "PRIMARY":
                constraints[name] = f"PRIMARY KEY {listed}"
            elif is_unique:
                constraints[name] = f"UNIQUE {listed}"
            else:
                indexes[name] = f"{kind} {listed}"
        return constraints, indexes

    def foreign_keys(self, where: str, table: str) -> list[tuple[str, str, str, str]]:
        """Return table, name, text and referenced table of the foreign keys of a table, or to it."""
        grouped: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for child, name, *rest in self.rows(FOREIGN_KEYS.format(where), [table]):
            grouped[child, name].append(rest)
        return [(child, name, _foreign_key(parts), str(parts[0][1])) for (child, name), parts in grouped.items()]

    def expected(self, app_label: str, model: type[Model], state: Any) -> TableDefinition:
        table = model._meta.db_table
        name = clone_name(table)
        renamed = with_table(state, app_label, str(model._meta.model_name), name)
        clone = renamed.apps.get_model(app_label, model._meta.model_name)
        self.execute(f"DROP TABLE IF EXISTS {self.quote(name)}")
        try:
            checks = self.check_names()
            editor: Any = shadow_editor(self.connection, table, name, checks)
            with editor(self.connection, atomic=False) as opened, OtherTableGuard(self.connection, name):
                opened.create_model(clone)
                opened.deferred_sql = [each for each in opened.deferred_sql if "FOREIGN KEY" not in str(each)]
            read = self.read(name)
        finally:
            self.execute(f"DROP TABLE IF EXISTS {self.quote(name)}")
        assert read is not None
        constraints = {checks.restored(each): text for each, text in read.constraints.items()}
        return self._with_foreign_keys(dataclasses.replace(read, constraints=constraints), model)

    def error_of_expression(self, table: str, sql: str, cast: str, column_type: str) -> str:
        clone = self.quote(clone_name(table))
        self.execute(f"DROP TABLE IF EXISTS {clone}")
        try:
            self.execute(f"CREATE TABLE {clone} LIKE {self.quote(table)}")
            for name, column in self._columns(table).items():
                if column.identity:  # a generated column cannot use it, but a trigger can
                    self.execute(f"ALTER TABLE {clone} MODIFY {self.quote(name)} {verbatim(column.type)} NOT NULL")
            self.execute(
                f"ALTER TABLE {clone} ADD COLUMN mm_value {verbatim(column_type)} GENERATED ALWAYS AS ({sql}) STORED"
            )
        except DatabaseError as error:
            return str(error)
        finally:
            self.execute(f"DROP TABLE IF EXISTS {clone}")
        return ""

    def _with_foreign_keys(self, found: TableDefinition, model: type[Model]) -> TableDefinition:
        """Return the definition with the model's foreign keys, and the indexes that the server makes for them."""
        editor: Any = self.connection.schema_editor()
        keys, indexes = {}, dict(found.indexes)
        for field in constrained_foreign_keys(model):
            target: Any = field.target_field  # type: ignore[attr-defined]  # of a foreign key
            table = target.model._meta.db_table
            name = str(editor._fk_constraint_name(model, field, f"_fk_{table}_{target.column}")).strip("`")
            keys[name] = _foreign_key([(field.column, table, target.column, "RESTRICT", "RESTRICT")])
            listed = [*found.constraints.values(), *found.indexes.values()]
            if not any(f"({field.column}," in text or f"({field.column})" in text for text in listed):
                indexes[name] = f"BTREE ({field.column})"
        return TableDefinition(
            columns=found.columns,
            constraints=found.constraints,
            indexes=indexes,
            options=found.options,
            foreign_keys=keys,
        )

    def orphans(self) -> list[Orphan]:
        found = []
        for name, table in self.rows(
            "SELECT trigger_name, event_object_table FROM information_schema.triggers WHERE trigger_schema = "
            "DATABASE() AND trigger_name REGEXP '^mm_[0-9a-f]{6}_(back_)?(strict_)?(del|upd|ins)_' ORDER BY 1"
        ):
            found.append(Orphan(kind="trigger", name=name, table=table, tag=name.split("_")[1]))
        for (name,) in self.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = "
            "'BASE TABLE' AND table_name REGEXP '^_(.*_mm[nodr]_[0-9a-f]{6}|mmc_[0-9a-f]{12})$' ORDER BY 1"
        ):
            found.append(Orphan(kind="table", name=name, tag="" if name.startswith("_mmc_") else name[-6:]))
        return found

    def drop_orphan(self, orphan: Orphan) -> None:
        if orphan.kind == "trigger":
            self.execute(f"DROP TRIGGER IF EXISTS {self.quote(orphan.name)}")
            return
        with without_checks(self.execute):
            self.execute(f"DROP TABLE IF EXISTS {self.quote(orphan.name)}")

    def refusals(self, table: str, own_triggers: Collection[str] = ()) -> list[Refused]:
        if not self.rows(OPTIONS, [table]):
            return [Refused("online.table", f"There is no table {table!r}. Apply the earlier migrations first.")]
        found = self.refusals_of_kind(table)

        def refuse(code: str, text: str) -> None:
            found.append(_unsupported(code, table, text))

        triggers = [name for name, _ in self.rows(TRIGGERS, [table])]
        others = [name for name in triggers if not name.startswith("mm_") and name not in own_triggers]
        if others:
            refuse("online.triggers_exist", f"has triggers ({', '.join(others)})")
        names = [*(name for _, name, _, _ in self.foreign_keys("k.table_name", table))]
        names += [name for _, name, _, _ in self.foreign_keys("k.referenced_table_name", table)]
        if long := sorted({name for name in names if len(name) > MAX_FOREIGN_KEY}):
            refuse(
                "online.long_name", f"has foreign keys with more than {MAX_FOREIGN_KEY} characters ({', '.join(long)})"
            )
        itself = [name for child, name, _, target in self.foreign_keys("k.table_name", table) if child == target]
        if itself:
            refuse("online.self_reference", f"refers to itself ({', '.join(itself)})")
        actions = [
            f"{name}: {text[text.index(' ON ') + 1 :]}"
            for child, name, text, _ in self.foreign_keys("k.table_name", table)
            if child == table and " ON " in text
        ]
        if actions:  # they change rows of the table, and fire no trigger
            refuse("online.foreign_keys", f"has foreign keys with an action ({', '.join(actions)})")
        if others := [name for (name,) in self.rows(FOREIGN, [table, table])]:
            refuse("online.dependents", f"has foreign keys from or to another database ({', '.join(others)})")
        return [*found, *self.server_refusals(table)]

    def refusals_of_kind(self, table: str) -> list[Refused]:
        """Return the reasons in the storage of a table that exists."""
        engine, _, _, _, create_options, kind = self.rows(OPTIONS, [table])[0]
        found = []
        if engine != "InnoDB":
            found.append(_unsupported("online.engine", table, f"has the storage engine {engine}"))
        if "partitioned" in (create_options or ""):
            found.append(_unsupported("online.partitioned", table, "is partitioned"))
        if kind == "SYSTEM VERSIONED":
            found.append(_unsupported("online.versioned", table, "is system-versioned"))
        return found

    def size(self, table: str) -> int:
        sql = "SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE() "
        return int(self.value(f"{sql} AND table_name = %s", [table]))

    def free_bytes(self) -> int | None:
        with contextlib.suppress(DatabaseError):  # MariaDB has the table with its plugin DISKS only
            return int(self.value(DISKS))
        return None

    def server_refusals(self, table: str) -> list[Refused]:
        """Return the reasons in the server's version and settings, and in the user's privileges."""
        connection: Any = self.connection
        found, version = [], connection.mysql_version
        if version < self.oldest:
            here, oldest = (".".join(map(str, each)) for each in (version, self.oldest))
            return [Refused("online.version", f"The server is {self.title} {here}; supported: {oldest} or newer.")]
        settings = {str(name).lower(): str(value) for name, value in self.rows(SETTINGS)}
        has_log, mode = settings["log_bin"] == "ON", settings["sql_mode"]
        # A version without this setting logs rows.
        if has_log and settings.get("binlog_format") == "STATEMENT":
            found.append(
                Refused(
                    "online.binlog", "binlog_format is STATEMENT; allowed: ROW, MIXED. Statements skip locked rows."
                )
            )
        if "STRICT_" not in mode:
            found.append(
                Refused(
                    "online.sql_mode",
                    f"sql_mode is {mode!r}; it must contain STRICT_TRANS_TABLES. Without it, the server truncates "
                    "values that do not fit. Set it in OPTIONS of the database.",
                )
            )
        privileges = self.privileges(table)
        lacking = [each for each in NEEDED if each not in privileges]
        trusts = settings["log_bin_trust_function_creators"] == "ON"
        if has_log and not trusts and "SUPER" not in privileges:
            lacking.append("SUPER (or log_bin_trust_function_creators = 1)")
        if lacking:
            found.append(
                Refused("online.privileges", f"The database user lacks {', '.join(lacking)}. Grant it, and try again.")
            )
        return found

    @abstractmethod
    def privileges(self, table: str) -> set[str]:
        """Return the user's privileges for a table."""


def _unsupported(code: str, table: str, text: str) -> Refused:
    return Refused(code, f"Table {table!r} {text}, which an online change does not support yet.")


def _options(engine: str, collation: str, comment: str, row_format: str, create: str, kind: str) -> dict[str, str]:
    options = {
        "comment": comment,
        "engine": engine,
        "collation": collation,
        "row format": row_format,
        "options": create,
        "kind": "" if kind == "BASE TABLE" else kind,
    }
    return {name: str(value) for name, value in options.items() if value}


def _foreign_key(parts: list[Any]) -> str:
    """Return a foreign key without its name. `parts`: column, table, referenced column and actions, by position."""
    _, table, _, on_delete, on_update = parts[0]
    text = f"FOREIGN KEY ({', '.join(part[0] for part in parts)}) REFERENCES {table}"
    text += f" ({', '.join(part[2] for part in parts)})"
    for event, action in (("DELETE", on_delete), ("UPDATE", on_update)):
        if action not in CHECKED:
            text += f" ON {event} {action}"
    return text
