"""`OnlineTable`, the base class of migrations that change a table without a model."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from django.db import connections

from massmigration.definitions.details import Detail
from massmigration.exceptions import BadMigrationFile
from massmigration_schema.change import TableChange
from massmigration_schema.clauses import AnyChange, Clause, checked, created, identifier, index_statement, template
from massmigration_schema.derivation import Derivation
from massmigration_schema.details import STATEMENTS
from massmigration_schema.options import Online
from massmigration_schema.trial import TableSource, stored, tried


class OnlineTable(TableChange):
    """The change of a table without a model, as a file in the folder `massmigrations` of an app."""

    table: str = ""
    """The name of the table."""

    alter: Sequence[str] = ()
    """Clauses of ALTER TABLE, each without the words ALTER TABLE and the name."""

    changes: Sequence[AnyChange] = ()
    """The changes as objects: `AddColumn`, `RenameColumn`, `DropColumn`, `AddIndex`."""

    definition: str = ""
    """CREATE TABLE with the new definition, under the name of the table; instead of `alter` and `changes`."""

    indexes: Sequence[str] = ()
    """With `definition`: statements CREATE INDEX."""

    origin_columns: Sequence[str] | None = None
    """The columns that are copied (default: all)."""

    dest_columns: Sequence[str] | None = None
    """The columns of the new table that get their values from the old one (default: all)."""

    renames: Mapping[str, str] = {}  # a subclass replaces it
    """New names of columns by the old ones, if no single clause renames them."""

    online: Online = Online()
    """How the change is made."""

    is_original: ClassVar[bool] = False
    """Whether tables and triggers have the names of Django Online Migration."""

    def __init__(self, app_label: str, name: str) -> None:
        super().__init__(app_label, name)
        self.source = self._source()
        self._tried: dict[str, Derivation] = {}

    @functools.cached_property
    def source_hash(self) -> str:
        # The statements depend on this package, too.
        parts = (super().source_hash, self.source.fingerprint, version("massmigration-schema"))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _source(self) -> TableSource:
        given = [name for name in ("alter", "changes", "definition") if getattr(self, name)]
        if not given or ("definition" in given and len(given) > 1):
            found = " and ".join(given) or "none of them"
            raise BadMigrationFile(f"{self.key} has {found}; allowed: alter, changes or both, or definition alone.")
        if self.indexes and not self.definition:
            raise BadMigrationFile(f"{self.key} has indexes without a definition. Use changes = [AddIndex(…)] instead.")
        if self.online.transforms or self.online.strategy != "auto":
            raise BadMigrationFile(f"{self.key} has an Online() with transforms or a strategy, which need a model.")
        for name in ("alter", "indexes", "changes"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise BadMigrationFile(f"{self.key} has {name} = {getattr(self, name)!r:.100}; it must be a list.")
        table = identifier(self.table)
        for column in [*self.renames, *self.renames.values(), *(self.origin_columns or ()), *(self.dest_columns or ())]:
            identifier(column)
        if len(set(self.renames.values())) != len(self.renames):
            raise BadMigrationFile(f"{self.key} gives two columns one new name: {dict(self.renames)!r}.")
        changes: list[Any] = [Clause(checked(text)) for text in self.alter]
        for change in self.changes:
            checked(change.sql(_plain, table))
            changes.append(change)
        changes += [index_statement(text, table) for text in self.indexes]
        return TableSource(
            app_label=self.app_label,
            name=self.name,
            table=table,
            changes=tuple(changes),
            definition=created(self.definition, table) if self.definition else "",
            renames=dict(self.renames),
            origin_columns=self.origin_columns,
            dest_columns=self.dest_columns,
            online=self.online,
            is_original=self.is_original,
        )

    def derivation(self, db_alias: str) -> Derivation:
        found = stored(self.source, db_alias)
        if found is not None:
            return found
        if db_alias not in self._tried:
            self._tried[db_alias] = tried(self.source, db_alias, self.dialect(db_alias))
        return self._tried[db_alias]

    def forget_trial(self, db_alias: str) -> None:
        """Try the clauses again at the next use: the table may have been altered since the last trial."""
        self._tried.pop(db_alias, None)

    def get_details_before_begin(self, db_alias: str) -> Sequence[Detail]:
        """Return the facts about a change that has not begun. A page tries nothing on the database."""
        quote = connections[db_alias].ops.quote_name
        statements = [template(change, quote) for change in self.source.changes]
        table = {"table": quote(self.source.table)}
        sql = "\n".join(each % table for each in (self.source.definition, *statements) if each)
        return [Detail(label="Table", value=self.source.table), Detail(label=STATEMENTS, value=sql)]

    def check_action(self, action: str, db_alias: str) -> None:
        if action == "launch":
            self.forget_trial(db_alias)
        super().check_action(action, db_alias)

    def _prepare(self, db_alias: str, context: Any) -> None:
        self.forget_trial(db_alias)
        super()._prepare(db_alias, context)


def _plain(name: str) -> str:
    return f'"{name}"'
