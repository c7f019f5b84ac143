"""`ChangePlan`, the plan of an online change. It is stored, so that every worker does the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MappedColumn:
    """A column of the new table and where its values come from: a column of the old table, or one value."""

    name: str
    source: str = ""
    """The column of the old table. Empty: every row has the value `literal`."""

    literal: str = ""
    """SQL of the value; with a `source`, of the value that replaces NULL. Empty: NULL stays NULL."""

    cast: str = ""
    """The type to which the source is converted, where the database does not do it by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """The change of one table by one schema migration."""

    app_label: str
    name: str
    model_name: str
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

    @property
    def key(self) -> str:
        """The key of the mass migration that makes the change."""
        return f"{self.app_label}:{self.name}.schema"

    @property
    def tag(self) -> str:
        """Six hexadecimal digits that stand for the change in the names of tables and triggers."""
        return hashlib.sha1(self.key.encode()).hexdigest()[:6]  # a name, not a secret

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
        columns = tuple(MappedColumn(**column) for column in stored["columns"])
        keys = {name: tuple(stored[name]) for name in ("old_key", "new_key")}
        return cls(**{**stored, **keys, "columns": columns})
