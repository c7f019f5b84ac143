"""`PostgreSQLSwap`: the swap of the tables of a change on PostgreSQL, in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Callable

from massmigration_schema.dialects.base import Rows, TableBuilder, TableSwap, verbatim
from massmigration_schema.dialects.postgresql_tables import PostgreSQLTables
from massmigration_schema.exceptions import Refused

CHILDREN = """
    SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid), k.convalidated,
        (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n.place) FROM unnest(k.conkey)
            WITH ORDINALITY n (number, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.number),
        (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n.place) FROM unnest(k.confkey)
            WITH ORDINALITY n (number, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.number),
        (SELECT array_agg(a.attname::text ORDER BY n.place) FROM unnest(k.confkey)
            WITH ORDINALITY n (number, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.number),
        k.confrelid::regclass::text
    FROM pg_constraint k WHERE k.confrelid = to_regclass(%s) AND k.contype = 'f' AND k.conrelid <> k.confrelid
    ORDER BY 1, 2
"""


class PostgreSQLSwap(TableSwap):
    """The swap of one change on PostgreSQL."""

    def __init__(self, tables: PostgreSQLTables) -> None:
        super().__init__(tables)
        self._tables = tables
        self._names = tables.names

    def make_ready(self) -> None:
        self.execute(f"ANALYZE {self._names.shadow}")

    def is_swapped(self) -> bool:
        names = self._names
        old, shadow = (name.replace("%%", "%") for name in (names.old, names.shadow))
        found = self.rows("SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NULL", [old, shadow])
        return bool(found[0][0])

    def log_size(self) -> int:
        return int(self.value(f"SELECT count(*) FROM {self._names.log}"))

    def swap(self, record: Callable[[], None], back: TableBuilder | None = None) -> None:
        if self.is_swapped():
            record()
            return
        names = self._names

        def swap() -> None:
            self.execute(f"LOCK TABLE {names.origin} IN ACCESS EXCLUSIVE MODE")
            self.require_empty_log()
            self._move_sequences()
            self._tables.drop_triggers()
            self._move_children()
            self.execute(f"CREATE SCHEMA IF NOT EXISTS {names.old_schema}")
            self.execute(f"ALTER TABLE {names.origin} SET SCHEMA {names.old_schema}")
            self.execute(f"ALTER TABLE {names.shadow} SET SCHEMA {names.schema}")
            if back is not None:
                back.create_back()
            record()

        self._tables.patient(swap)

    def _children(self) -> Rows:
        """Return the foreign keys of other tables that refer to the table."""
        origin = self._names.origin.replace("%%", "%")  # found by the search path, which is another one below
        with self._tables.catalog.qualified():
            return self.rows(CHILDREN, [origin])

    def _move_sequences(self) -> None:
        """Set the new sequences to the numbers of the old ones, whatever the greatest key is."""
        sources = {column.source: column.name for column in self.plan.columns if column.source}
        new = dict(self._tables.sequences(self._names.shadow))
        for column, old in self._tables.sequences(self._names.origin):
            target = new.get(sources.get(column, ""))
            if target:
                self.rows(f"SELECT setval(%s::regclass, last_value, is_called) FROM {verbatim(old)}", [target])

    def _move_children(self) -> None:
        """Have the foreign keys of other tables refer to the new table. Their rows are checked after the swap."""
        children = self._children()
        new_names = {column.source: column.name for column in self.plan.columns if column.source}
        for child, name, text, is_valid, columns, targets, target_names, table in children:
            missing = [each for each in target_names if each not in new_names]
            if missing:
                raise Refused(
                    "online.children",
                    f"{child}.{name} refers to {', '.join(missing)}, which the new table does not have. Drop this "
                    "foreign key first.",
                )
            rest = text.removeprefix(f"FOREIGN KEY ({columns}) REFERENCES {table}({targets})").removesuffix(
                " NOT VALID"
            )
            listed = ", ".join(self.quote(new_names[each]) for each in target_names)
            self.execute(
                f"ALTER TABLE {verbatim(child)} DROP CONSTRAINT {verbatim(name)}, ADD CONSTRAINT {verbatim(name)} "
                f"FOREIGN KEY ({verbatim(columns)}) REFERENCES {self._names.shadow} ({listed}){verbatim(rest)} NOT "
                f"VALID"
            )
            if is_valid:
                self.execute(
                    f"COMMENT ON CONSTRAINT {verbatim(name)} ON {verbatim(child)} IS 'massmigration: to be validated'"
                )

    def finish(self, *, is_kept_current: bool = False) -> None:
        """Check the rows of other tables that refer to this one. New rows are checked already."""
        if not is_kept_current:
            self._drop_foreign_keys()
        children = self._children()
        for child, name, _, is_valid, *_ in children:
            mark = self.value(
                "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conrelid = %s::regclass "
                "AND quote_ident(conname) = %s",
                [child, name],
            )
            if mark != "massmigration: to be validated":
                continue
            if not is_valid:
                self.execute(f"ALTER TABLE {verbatim(child)} VALIDATE CONSTRAINT {verbatim(name)}")
            self.execute(f"COMMENT ON CONSTRAINT {verbatim(name)} ON {verbatim(child)} IS NULL")

    def _drop_foreign_keys(self) -> None:
        """Drop the foreign keys of the table that is not used any more: its rows would keep others from going."""
        names = self._names
        for _, name, *_ in self._tables.foreign_keys_of(names.old):
            drop = f"ALTER TABLE {names.old} DROP CONSTRAINT {self.quote(name)}"
            self._tables.patient(functools.partial(self.execute, drop))

    def cleanup(self) -> None:
        names = self._names
        # The way back has triggers on the table that is used.
        self._tables.patient(lambda: self.execute(f"DROP FUNCTION IF EXISTS {names.own_schema}.back() CASCADE"))
        # Without CASCADE: what others have made of the old table since the swap is theirs.
        self.execute(f"DROP TABLE IF EXISTS {names.old}")
        self.execute(f"DROP SCHEMA IF EXISTS {names.old_schema}")
        self.execute(f"DROP SCHEMA IF EXISTS {names.shadow_schema} CASCADE")

    def abort(self) -> None:
        self._tables.drop()
