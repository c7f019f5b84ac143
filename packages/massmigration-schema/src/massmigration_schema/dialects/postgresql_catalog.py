"""`PostgreSQLCatalog`: definitions of tables as PostgreSQL's catalog has them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Model

from massmigration_schema.definition import ColumnDefinition, TableDefinition
from massmigration_schema.dialects.base import Catalog, Orphan, constrained_foreign_keys, verbatim
from massmigration_schema.exceptions import Refused

COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
        a.attidentity, a.attgenerated, c.collname, col_description(a.attrelid, a.attnum),
        a.attidentity <> '' OR pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) IS NOT NULL
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation c ON c.oid = a.attcollation AND a.attcollation <> t.typcollation
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
CONSTRAINTS = """
    SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = %s AND contype IN ('p', 'u', 'c', 'x', 'f') ORDER BY 1
"""
INDEXES = """
    SELECT r.relname, pg_get_indexdef(i.indexrelid), i.indisvalid, format('CREATE %%sINDEX %%I ON %%s USING ',
        CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, r.relname, i.indrelid::regclass), i.indisunique
    FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid
    WHERE i.indrelid = %s AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid
        AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')) ORDER BY 1
"""
INCOMING = """
    SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE confrelid = %s AND conrelid <> confrelid AND contype = 'f' AND conparentid = 0 ORDER BY 1
"""
TRIGGERS = """
    SELECT tgname, pg_get_triggerdef(oid) || ' [' || tgenabled::text || ']' FROM pg_trigger
    WHERE tgrelid = %s AND NOT tgisinternal ORDER BY 1
"""
OPTIONS = """
    SELECT obj_description(c.oid, 'pg_class'), array_to_string(c.reloptions, ', '), s.spcname, c.relreplident,
        c.relrowsecurity, c.relpersistence, pg_get_userbyid(c.relowner), array_to_string(c.relacl, ', ')
    FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = %s
"""
DEPENDENTS = """
    WITH mine AS (SELECT c.oid, t.oid AS type, t.typarray, n.nspname, c.relname FROM pg_class c JOIN pg_type t ON
        t.oid = c.reltype JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s)
    SELECT 'is used by ' || string_agg(name, ', ' ORDER BY name) FROM (
        SELECT CASE WHEN r.oid IS NULL THEN pg_describe_object(d.classid, d.objid, d.objsubid)
            ELSE r.ev_class::regclass::text END AS name
        FROM mine JOIN pg_depend d ON d.deptype = 'n' AND (d.refobjid = mine.oid AND d.refclassid = 'pg_class'::regclass
            OR d.refobjid IN (mine.type, mine.typarray) AND d.refclassid = 'pg_type'::regclass
            OR d.refclassid = 'pg_class'::regclass AND EXISTS (SELECT 1 FROM pg_depend s WHERE s.objid = d.refobjid
                AND s.classid = 'pg_class'::regclass AND s.refobjid = mine.oid AND s.deptype IN ('a', 'i')
                AND s.refobjsubid > 0))
        LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_attrdef v ON d.classid = 'pg_attrdef'::regclass AND v.oid = d.objid
        WHERE d.classid <> 'pg_constraint'::regclass
            AND mine.oid NOT IN (coalesce(v.adrelid, 0), coalesce(r.ev_class, 0))
        UNION SELECT 'its rule ' || quote_ident(rulename) FROM mine JOIN pg_rewrite ON ev_class = mine.oid
        UNION SELECT 'publication ' || pubname FROM mine JOIN pg_publication_tables p ON p.schemaname = mine.nspname
            AND p.tablename = mine.relname
        UNION SELECT 'a subscription' FROM mine JOIN pg_subscription_rel ON srrelid = mine.oid) x
    HAVING count(*) > 0
"""
"""What uses the table by its number, and would use the old one after the swap; foreign keys are moved."""

PROPERTIES = """
    WITH mine AS (SELECT * FROM pg_class WHERE oid = %s),
    indexes AS (SELECT r.*, i.indisclustered, k.oid AS con FROM mine JOIN pg_index i ON i.indrelid = mine.oid
        JOIN pg_class r ON r.oid = i.indexrelid
        LEFT JOIN pg_constraint k ON k.conindid = r.oid AND k.conrelid = mine.oid)
    SELECT 'has what a copy would lose (' || string_agg(what, ', ' ORDER BY what) || ')' FROM (
        SELECT 'storage parameters of TOAST' AS what FROM mine JOIN pg_class t ON t.oid = mine.reltoastrelid
            WHERE t.reloptions IS NOT NULL
        UNION SELECT 'the access method ' || amname FROM mine JOIN pg_am ON pg_am.oid = mine.relam
            WHERE amname <> current_setting('default_table_access_method')
        UNION SELECT 'options of the column ' || attname FROM mine JOIN pg_attribute ON attrelid = mine.oid
            WHERE array_to_string(attoptions, ' ') LIKE '%%n_distinct%%' AND NOT attisdropped
        UNION SELECT 'the statistics ' || stxname FROM mine JOIN pg_statistic_ext ON stxrelid = mine.oid
        UNION SELECT 'CLUSTER ON ' || relname FROM indexes WHERE indisclustered
        UNION SELECT 'the tablespace of ' || relname FROM indexes WHERE reltablespace <> 0
        UNION SELECT 'storage parameters of ' || relname FROM indexes WHERE con IS NOT NULL AND reloptions IS NOT NULL
        UNION SELECT 'statistics targets of ' || relname FROM indexes JOIN pg_attribute a ON a.attrelid = indexes.oid
            WHERE coalesce(a.attstattarget, -1) >= 0
        UNION SELECT 'the comment of ' || relname FROM indexes WHERE obj_description(oid, 'pg_class') IS NOT NULL
        UNION SELECT 'the comment of ' || conname FROM mine JOIN pg_constraint k
            ON mine.oid IN (k.conrelid, k.confrelid) WHERE obj_description(k.oid, 'pg_constraint') IS NOT NULL) x
    HAVING count(*) > 0
"""
"""Properties of the table that neither `LIKE` nor this package carries over."""

KINDS = {
    "online.partitioned": "SELECT 'is partitioned' FROM pg_class WHERE oid = %s AND relkind = 'p'",
    "online.temporary": "SELECT 'is temporary or unlogged' FROM pg_class WHERE oid = %s AND relpersistence <> 'p'",
    "online.inheritance": (
        "SELECT 'inherits from, or is inherited by, ' || string_agg(other, ', ') FROM (SELECT inhparent::regclass::text"
        " AS other FROM pg_inherits WHERE inhrelid = %s UNION SELECT inhrelid::regclass::text FROM pg_inherits WHERE"
        " inhparent = %s) x HAVING count(*) > 0"
    ),
    "online.triggers_exist": (
        "SELECT 'has triggers (' || string_agg(tgname, ', ' ORDER BY tgname) || ')' FROM pg_trigger WHERE tgrelid = %s"
        " AND NOT tgisinternal AND tgname NOT LIKE 'mm\\_sync\\_%%' HAVING count(*) > 0"
    ),
    "online.row_security": (
        "SELECT 'has row-level security or policies' FROM pg_class WHERE oid = %s AND (relrowsecurity OR"
        " relforcerowsecurity OR EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = %s))"
    ),
    "online.dependents": DEPENDENTS,
    "online.foreign_keys": (
        "SELECT 'has foreign keys with an action, or that are not deferred (' || string_agg(conname, ', ' ORDER BY"
        " conname) || ')' FROM pg_constraint WHERE conrelid = %s AND contype = 'f' AND (confdeltype <> 'a' OR"
        " confupdtype <> 'a' OR confmatchtype <> 's' OR NOT condeferred) HAVING count(*) > 0"
    ),
    "online.properties": PROPERTIES,
    "online.self_reference": (
        "SELECT 'refers to itself (' || string_agg(conname, ', ') || ')' FROM pg_constraint WHERE conrelid = %s AND"
        " confrelid = conrelid AND contype = 'f' HAVING count(*) > 0"
    ),
    "online.column_privileges": (
        "SELECT 'has privileges of single columns (' || string_agg(attname, ', ') || ')' FROM pg_attribute"
        " WHERE attrelid = %s AND attacl IS NOT NULL AND NOT attisdropped HAVING count(*) > 0"
    ),
    "online.replica_identity": (
        "SELECT 'has a replica identity other than its primary key' FROM pg_class WHERE oid = %s"
        " AND relreplident <> 'd'"
    ),
}
"""Queries whose answer says what about a table is refused, by the code of the refusal."""

PRIVILEGES = """
    WITH mine AS (SELECT * FROM pg_class WHERE oid = %s)
    SELECT 1, 'CREATE on the database' WHERE NOT has_database_privilege(current_database(), 'CREATE')
    UNION ALL SELECT 2, 'CREATE on the schema ' || relnamespace::regnamespace FROM mine
        WHERE NOT has_schema_privilege(relnamespace, 'CREATE')
    UNION ALL SELECT 3, 'TRIGGER on the table' FROM mine WHERE NOT has_table_privilege(oid, 'TRIGGER')
    UNION ALL SELECT 4, 'ownership of the table' FROM mine WHERE NOT pg_has_role(relowner, 'USAGE')
    UNION ALL SELECT DISTINCT 5, 'REFERENCES on ' || confrelid::regclass FROM mine JOIN pg_constraint k
        ON k.conrelid = mine.oid AND k.contype = 'f' WHERE NOT has_table_privilege(confrelid, 'REFERENCES')
    UNION ALL SELECT DISTINCT 6, 'ownership of ' || c.oid::regclass FROM mine JOIN pg_constraint k
        ON k.confrelid = mine.oid JOIN pg_class c ON c.oid = k.conrelid WHERE NOT pg_has_role(c.relowner, 'USAGE')
    ORDER BY 1, 2
"""


class PostgreSQLCatalog(Catalog):
    """The catalog of PostgreSQL."""

    def oid(self, table: str) -> int | None:
        """Return the number of a table that is found by the search path, or None."""
        found = self.value("SELECT to_regclass(%s)::oid::bigint", [self.connection.ops.quote_name(table)])
        return None if found is None else int(found)

    def read(self, table: str) -> TableDefinition | None:
        oid = self.oid(table)
        return None if oid is None else self.read_oid(oid)

    def read_oid(self, oid: int) -> TableDefinition:
        """Return the definition of the table with this number."""
        with self.qualified():
            constraints = self.rows(CONSTRAINTS, [oid])
            return TableDefinition(
                columns=self._columns(oid),
                constraints={name: text for name, kind, text in constraints if kind != "f"},
                foreign_keys={name: text for name, kind, text in constraints if kind == "f"},
                indexes={name: _index(*row) for name, *row in self.rows(INDEXES, [oid])},
                incoming=dict(self.rows(INCOMING, [oid])),
                triggers=dict(self.rows(TRIGGERS, [oid])),
                options=self._options(oid),
            )

    def _columns(self, oid: int) -> dict[str, ColumnDefinition]:
        found = {}
        for name, kind, is_nullable, default, identity, generated, collation, comment, is_numbered in self.rows(
            COLUMNS, [oid]
        ):
            # A serial column of an old Django and an identity column of a new one are the same to Django.
            sequence = "sequence" if is_numbered else ""
            found[name] = ColumnDefinition(
                type=kind,
                is_nullable=is_nullable,
                default="" if is_numbered or generated else default or "",
                generated=default if generated else "",
                identity="always" if identity == "a" else sequence,
                collation=collation or "",
                comment=comment or "",
            )
        return found

    def _options(self, oid: int) -> dict[str, str]:
        comment, storage, tablespace, replica, row_security, persistence, owner, privileges = self.rows(OPTIONS, [oid])[
            0
        ]
        options = {
            "comment": comment,
            "storage parameters": storage,
            "tablespace": tablespace,
            "replica identity": "" if replica == "d" else replica,
            "row security": "on" if row_security else "",
            "persistence": "" if persistence == "p" else persistence,
            "owner": owner,
            "privileges": privileges,
        }
        return {name: value for name, value in options.items() if value}

    @contextlib.contextmanager
    def qualified(self) -> Iterator[None]:
        """Have the server write every name with its schema, whatever the search path is."""
        with transaction.atomic(using=self.db_alias):
            before = self.value("SELECT current_setting('search_path')")
            self.rows("SELECT set_config('search_path', 'pg_catalog', true)")
            yield
            self.rows("SELECT set_config('search_path', %s, true)", [before])

    def expected(self, app_label: str, model: type[Model], state: Any) -> TableDefinition:
        schema = f"mm_check_{secrets.token_hex(4)}"
        try:
            with transaction.atomic(using=self.db_alias):
                path = self.value("SELECT current_setting('search_path')")
                self.execute(f"CREATE SCHEMA {schema}")
                self.rows("SELECT set_config('search_path', %s, true)", [f"{schema}, {path}"])
                with self.connection.schema_editor(atomic=False) as editor:
                    editor.create_model(model)
                    # A foreign key would lock the other table until the rollback.
                    editor.deferred_sql = [each for each in editor.deferred_sql if "FOREIGN KEY" not in str(each)]
                oid = self.oid(model._meta.db_table)
                assert oid is not None
                raise _Made(self.read_oid(oid))
        except _Made as made:
            keys = dict(self._foreign_keys(model))
            return TableDefinition(
                columns=made.definition.columns,
                constraints=made.definition.constraints,
                indexes=made.definition.indexes,
                options=made.definition.options,
                foreign_keys=keys,
            )

    def error_of_expression(self, table: str, sql: str, cast: str, column_type: str) -> str:
        schema = f"mm_check_{secrets.token_hex(4)}"
        try:
            with transaction.atomic(using=self.db_alias):
                self.execute(f"CREATE SCHEMA {schema}")
                self.execute(f"CREATE TABLE {schema}.copy (LIKE {self.quote(table)})")
                self.execute(
                    f"ALTER TABLE {schema}.copy ADD COLUMN mm_value {verbatim(column_type)} "
                    f"GENERATED ALWAYS AS (({sql})::{verbatim(cast)}) STORED"
                )
                transaction.set_rollback(True, using=self.db_alias)
        except DatabaseError as error:
            return str(error)
        return ""

    def _foreign_keys(self, model: type[Model]) -> Iterator[tuple[str, str]]:
        """Yield name and text of the foreign keys that the schema editor would create."""
        editor: Any = self.connection.schema_editor()
        for field in constrained_foreign_keys(model):
            target: Any = field.target_field  # type: ignore[attr-defined]  # of a foreign key
            table = target.model._meta.db_table
            with self._qualified_by(table) as (oid, quoted):
                if oid is None:
                    continue
            name = str(editor._fk_constraint_name(model, field, f"_fk_{table}_{target.column}"))
            yield (
                name.strip('"'),
                (
                    f"FOREIGN KEY ({self._identifier(str(field.column))}) REFERENCES {quoted}"
                    f"({self._identifier(target.column)}) DEFERRABLE INITIALLY DEFERRED"
                ),
            )

    @contextlib.contextmanager
    def _qualified_by(self, table: str) -> Iterator[tuple[int | None, str]]:
        oid = self.oid(table)
        with self.qualified():
            yield oid, self.value("SELECT %s::oid::regclass::text", [oid])

    def _identifier(self, name: str) -> str:
        return str(self.value("SELECT quote_ident(%s)", [name]))

    def orphans(self) -> list[Orphan]:
        found = []
        for name, table in self.rows(
            "SELECT quote_ident(tgname), tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal "
            "AND tgname ~ '^mm_(sync|back)_[0-9a-f]{6}_(rows|truncate)$' ORDER BY 1"
        ):
            found.append(Orphan(kind="trigger", name=name, table=table, tag=name.split("_")[2]))
        for (name,) in self.rows(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^mm_((shadow|old)_[0-9a-f]{6}|check_[0-9a-f]{8})$' "
            "ORDER BY 1"
        ):
            found.append(Orphan(kind="schema", name=name, tag="" if "_check_" in name else name.split("_")[2]))
        return found

    def drop_orphan(self, orphan: Orphan) -> None:
        if orphan.kind == "trigger":
            self.execute(f"DROP TRIGGER IF EXISTS {orphan.name} ON {verbatim(orphan.table)}")
        else:
            self.execute(f"DROP SCHEMA IF EXISTS {orphan.name} CASCADE")

    def refusals(self, table: str, own_triggers: Collection[str] = ()) -> list[Refused]:
        oid = self.oid(table)
        if oid is None:
            return [Refused("online.table", f"There is no table {table!r}. Apply the earlier migrations first.")]
        found = self.refusals_of_kind(oid, table)
        lacking = [privilege for _, privilege in self.rows(PRIVILEGES, [oid])]
        if lacking:
            found.append(
                Refused("online.privileges", f"The database user lacks {', '.join(lacking)}. Grant it, and try again.")
            )
        return found

    def refusals_of_kind(self, oid: int, table: str) -> list[Refused]:
        """Return the reasons in the properties of the table with this number."""
        answers = {code: self.value(sql, [oid] * sql.count("%s")) for code, sql in KINDS.items()}
        return [
            Refused(code, f"Table {table!r} {text}, which an online change does not support yet.")
            for code, text in answers.items()
            if text is not None
        ]

    def size(self, table: str) -> int:
        return int(self.value("SELECT pg_total_relation_size(%s::regclass)", [self.connection.ops.quote_name(table)]))


class _Made(Exception):
    """Raised to roll back what was made, with what was read."""

    def __init__(self, definition: TableDefinition) -> None:
        self.definition = definition


def _index(text: str, is_valid: bool, prefix: str, is_unique: bool) -> str:
    """Return an index without its name and table."""
    kind = "UNIQUE " if is_unique else ""
    return kind + text.removeprefix(prefix) + ("" if is_valid else " INVALID")
