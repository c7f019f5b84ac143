"""`MySQLSwap`: the swap of the tables of a change on MySQL and MariaDB, by one RENAME TABLE."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from massmigration_schema.dialects.base import TableBuilder, TableSwap
from massmigration_schema.dialects.mysql_catalog import CHECKED, FOREIGN_KEYS, MAX_FOREIGN_KEY
from massmigration_schema.dialects.mysql_editor import without_checks
from massmigration_schema.dialects.mysql_names import MySQLNames
from massmigration_schema.dialects.mysql_tables import BaseMySQLTables
from massmigration_schema.exceptions import Refused

SUFFIX = "_mm"
"""The end of the names of foreign keys until the cleanup: their names are the database's, and the old ones exist."""

IN_PLACE = "ALGORITHM=INPLACE, LOCK=NONE"


class MySQLSwap(TableSwap):
    """The swap of one change on MySQL and MariaDB. Nothing of it is transactional: each method begins by looking."""

    def __init__(self, tables: BaseMySQLTables) -> None:
        super().__init__(tables)
        self._tables = tables
        self._names = tables.names

    def make_ready(self) -> None:
        made = {name for _, name, _ in self._foreign_keys("k.table_name", self._names.shadow_name)}
        for key in self._tables.foreign_keys():
            name = temporary(key.name)
            if name not in made:
                self._alter(
                    self._names.shadow_name,
                    f"ADD CONSTRAINT {self.quote(name)} FOREIGN KEY ({self.quote(key.column)}) "
                    f"REFERENCES {self.quote(key.table)} ({self.quote(key.target)})",
                )
        self.execute(f"ANALYZE TABLE {self._names.shadow}")

    def is_swapped(self) -> bool:
        names = self._names
        return self._exists(names.old_name) and not self._exists(names.shadow_name)

    def _exists(self, name: str) -> bool:
        return bool(
            self.rows(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", [name]
            )
        )

    def log_size(self) -> int:
        return int(self.value(f"SELECT COUNT(*) FROM {self._names.log}"))

    def swap(self, record: Callable[[], None], back: TableBuilder | None = None) -> None:
        names, tables = self._names, self._tables
        if not self._exists(names.origin_name) and self._exists(names.shadow_name):
            # A server without atomic RENAME has crashed in the middle of it.
            self.execute(f"RENAME TABLE {names.shadow} TO {names.origin}")
        if not self.is_swapped():
            try:
                if self.plan.is_lossy:
                    # From now on, a row that does not fit is refused, as after the swap. The statement waits for all
                    # transactions that have used the old triggers, so the number of entries is final after it.
                    tables.make_strict()
                self.require_empty_log()
                # Every parent is in the new table now, and stays there.
                self._move_children(names.origin_name, names.shadow_name, is_forward=True)
                if back is not None:
                    back.create_back()
                tables.patient(
                    lambda: self.execute(
                        f"RENAME TABLE {names.origin} TO {names.old}, {names.shadow} TO {names.origin}"
                    )
                )
            except BaseException:
                if not self.is_swapped():
                    self.recover()
                    if back is not None:
                        self._drop_back()
                raise
        tables.drop_triggers()
        record()

    def is_interrupted(self) -> bool:
        return bool(self._tables.strict_events())

    def recover(self) -> None:
        self._move_children(self._names.shadow_name, self._names.origin_name, is_forward=False)
        self._tables.make_lenient()

    def _drop_back(self) -> None:
        """Drop the triggers and the log of the way back."""
        plan = dataclasses.replace(self.plan, is_reverse=True)
        names = MySQLNames(self.db_alias, plan)
        for name in (*names.refusing_triggers.values(), *names.triggers.values()):
            self._tables.alter_triggers(f"DROP TRIGGER IF EXISTS {self.quote(name)}")
        self._tables.drop_tables(names.log_name)

    def _foreign_keys(self, where: str, table: str) -> list[tuple[str, str, list[Any]]]:
        """Return table, name and parts of the foreign keys of a table, or to it."""
        grouped: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for child, name, *rest in self.rows(FOREIGN_KEYS.format(where), [table]):
            grouped[child, name].append(rest)
        return [(child, name, parts) for (child, name), parts in grouped.items()]

    def _move_children(self, source: str, target: str, *, is_forward: bool) -> None:
        """Have the foreign keys of other tables refer to another table: in place, without a check of their rows."""
        rename = temporary if is_forward is not self.plan.is_reverse else final
        for child, name, parts in self._foreign_keys("k.referenced_table_name", source):
            if child in (self._names.origin_name, self._names.shadow_name, self._names.old_name):
                continue
            self._point(child, name, parts, target, rename(name), is_forward=is_forward)

    def _point(
        self, child: str, name: str, parts: list[Any], target: str, new_name: str, *, is_forward: bool | None = None
    ) -> None:
        """Make a foreign key again under another name. `is_forward`: with the new names of the columns or the old."""
        pairs = {column.source: column.name for column in self.plan.columns if column.source}
        if is_forward is not None and not is_forward:
            pairs = {new: old for old, new in pairs.items()}
        referred = [part[2] if is_forward is None else pairs.get(part[2]) for part in parts]
        if None in referred:
            raise Refused(
                "online.children",
                f"{child}.{name} refers to a column that the new table does not have. Drop this foreign key first.",
            )
        columns = ", ".join(self.quote(part[0]) for part in parts)
        targets = ", ".join(self.quote(str(each)) for each in referred)
        on_delete, on_update = parts[0][3:5]
        actions = "".join(
            f" ON {event} {action}"
            for event, action in (("DELETE", on_delete), ("UPDATE", on_update))
            if action not in CHECKED
        )
        self._alter(
            child,
            f"DROP FOREIGN KEY {self.quote(name)}, ADD CONSTRAINT {self.quote(new_name)} FOREIGN KEY ({columns}) "
            f"REFERENCES {self.quote(target)} ({targets}){actions}",
        )

    def _alter(self, table: str, clauses: str) -> None:
        """Alter foreign keys of a table in place, which is possible without a check of the rows only."""

        def alter() -> None:
            with without_checks(self.execute):
                self.execute(f"ALTER TABLE {self.quote(table)} {clauses}, {IN_PLACE}")

        self._tables.patient(alter, table)

    def finish(self, *, is_kept_current: bool = False) -> None:
        """Drop the foreign keys of the table that is not used any more: its rows would keep others from going."""
        if not is_kept_current:
            for _, name, _ in self._foreign_keys("k.table_name", self._names.old_name):
                self._alter(self._names.old_name, f"DROP FOREIGN KEY {self.quote(name)}")

    def cleanup(self) -> None:
        names = self._names
        self._drop_back()
        # After a revert, the new table has the name that it had before the swap.
        self._tables.drop_tables(names.old_name, names.shadow_name, *names.log_names)
        for where in ("k.table_name", "k.referenced_table_name"):
            for child, name, parts in self._foreign_keys(where, names.origin_name):
                if name.endswith(SUFFIX):
                    self._point(child, name, parts, str(parts[0][1]), final(name))

    def abort(self) -> None:
        self._tables.drop_triggers()
        self._move_children(self._names.shadow_name, self._names.origin_name, is_forward=False)
        self._tables.drop()


def temporary(name: str) -> str:
    """Return the name of a foreign key until the cleanup. Raise `Refused` if there is none that can be undone."""
    if name.endswith(SUFFIX):
        return name
    if len(name) > MAX_FOREIGN_KEY:
        raise Refused(
            "online.long_name",
            f"The name of the foreign key {name!r} has {len(name)} characters; allowed: {MAX_FOREIGN_KEY}. Give it "
            "a shorter name.",
        )
    return name + SUFFIX


def final(name: str) -> str:
    """Return the name of a foreign key after the cleanup."""
    return name.removesuffix(SUFFIX)
