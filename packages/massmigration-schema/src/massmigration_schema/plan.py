"""`ChangePlan`, the plan of an online change. It is stored, so that every worker does the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MappedColumn:
    """A column of the new table and where its values come from: the old table, or one value."""

    name: str
    source: str = ""
    """The column of the old table. Without it and an `expression`, every row has the value `literal`."""

    expression: str = ""
    """SQL of the value instead of a column, in which `%(row)s` is the row of the old table with a period."""

    literal: str = ""
    """SQL of the value; with a `source`, of the value that replaces NULL. Empty: NULL stays NULL."""

    cast: str = ""
    """The type to which the source is converted, where the database does not do it by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """The change of one table by one migration."""

    key: str
    """The key of the mass migration that makes the change."""

    table: str
    old_key: tuple[str, ...]
    """The columns of the primary key in the old table."""

    new_key: tuple[str, ...]
    columns: tuple[MappedColumn, ...]
    is_lossy: bool
    """Whether there may be rows that do not fit the new definition."""

    is_reverse: bool = False
    """Whether the plan leads from the new definition back to the old one. Rows keep what the new table lacks."""

    operations: str = ""
    """SHA-256 of the operations: some of them, such as indexes, are in no column."""

    back: tuple[MappedColumn, ...] | None = None
    """The columns of the old table and their sources, if the old table is kept current after the swap."""

    key_types: tuple[tuple[str | int, ...], ...] = ()
    """The classes of Django's fields for the key and their arguments, if no model has them."""

    definition: str = ""
    """CREATE TABLE of the new table, in which `%(table)s` stands for it. Empty: it is a copy of the old table."""

    statements: tuple[str, ...] = ()
    """Statements that alter the new table, likewise, if no operations of Django do."""

    is_original: bool = False
    """Whether tables and triggers have the names of Django Online Migration, where names can be chosen."""

    @property
    def tag(self) -> str:
        """Six hexadecimal digits that stand for the change in the names of tables and triggers."""
        return tag_of(self.key)

    @property
    def reverse(self) -> ChangePlan | None:
        """The plan from the new table back to the old one, if there is one."""
        if self.back is None:
            return None
        return dataclasses.replace(
            self,
            old_key=self.new_key,
            new_key=self.old_key,
            columns=self.back,
            back=None,
            is_lossy=True,
            is_reverse=True,
        )

    @property
    def log_key(self) -> list[str]:
        """The columns of the change log that contain the key of a row."""
        return [f"key_{number}" for number, _ in enumerate(self.old_key, 1)]

    @property
    def updated(self) -> tuple[MappedColumn, ...]:
        """The columns that an update of a row writes."""
        return tuple(column for column in self.columns if column.source or not self.is_reverse)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan: two workers with the same fingerprint execute the same statements."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as an object that JSON can store."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ChangePlan:
        """Return the plan that `to_json` has written."""
        lists = {name: stored[name] for name in ("columns", "back") if stored[name] is not None}
        columns = {name: tuple(MappedColumn(**column) for column in each) for name, each in lists.items()}
        texts = {name: tuple(stored[name]) for name in ("old_key", "new_key", "statements")}
        types = tuple(tuple(each) for each in stored["key_types"])
        return cls(**{**stored, **columns, **texts, "key_types": types})


def tag_of(key: str) -> str:
    """Return the tag of the change with this key."""
    return hashlib.sha1(key.encode()).hexdigest()[:6]  # a name, not a secret
