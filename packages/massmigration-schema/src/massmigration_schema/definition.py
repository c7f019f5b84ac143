"""A table's definition as the database's catalog describes it, and the differences between two of them.

A definition contains no SQL that this package has parsed: every text in it was written by the server. So two texts are
equal if the server means the same by them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """A column of a table. Columns have no position: it depends on the history of the table."""

    type: str
    is_nullable: bool
    default: str = ""
    generated: str = ""
    """The expression of a generated column."""

    identity: str = ""
    """How the database numbers the rows, if it does."""

    collation: str = ""
    comment: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableDefinition:
    """A table: its columns by name, and everything that belongs to it, each with the server's text by name."""

    columns: Mapping[str, ColumnDefinition]
    constraints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Primary key, unique, check and exclusion constraints."""

    indexes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    foreign_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    incoming: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Foreign keys of other tables that refer to this one, by `table.name`."""

    triggers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The comment, the storage engine, the collation, and what else the database keeps for a table."""

    def to_json(self) -> dict[str, Any]:
        """Return the definition as an object that JSON can store."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TableDefinition:
        """Return the definition that `to_json` has written."""
        columns = {name: ColumnDefinition(**column) for name, column in stored["columns"].items()}
        return cls(**{**stored, "columns": columns})


class Level(str, Enum):
    """The level of a difference."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between the definition that was found and the expected one."""

    code: str
    level: Level
    name: str
    """The column, constraint, index, trigger or option."""

    found: str = ""
    expected: str = ""

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.code}: {self.name} is {self.found or 'there'}, but is not expected."
        if not self.found:
            return f"{self.code}: {self.name} is missing; expected {self.expected}."
        return f"{self.code}: {self.name} is {self.found}; expected {self.expected}."


GROUPS = {
    "constraint": "constraints",
    "index": "indexes",
    "foreign_key": "foreign_keys",
    "reference": "incoming",
    "trigger": "triggers",
}
"""The attributes of a definition that contain texts by name, by the word for one of them."""

_ATTRIBUTES = {
    "type": Level.ERROR,
    "is_nullable": Level.ERROR,
    "default": Level.ERROR,
    "generated": Level.ERROR,
    "identity": Level.ERROR,
    "collation": Level.WARNING,
    "comment": Level.WARNING,
}
_NOT_VALID = re.compile(r"\s+NOT VALID$")


def differences(found: TableDefinition, expected: TableDefinition) -> list[Difference]:
    """Return what differs, in the order of columns, other objects and options. An empty list: nothing does."""
    listed = [*_of_columns(found.columns, expected.columns)]
    for word, attribute in GROUPS.items():
        listed += _of_texts(word, getattr(found, attribute), getattr(expected, attribute))
    for name in sorted({*found.options, *expected.options}):
        pair = found.options.get(name, ""), expected.options.get(name, "")
        if pair[0] != pair[1]:
            listed.append(
                Difference(code="option", level=Level.WARNING, name=name, found=repr(pair[0]), expected=repr(pair[1]))
            )
    return listed


def errors(found: TableDefinition, expected: TableDefinition) -> list[Difference]:
    """Return the differences that are not just warnings."""
    return [each for each in differences(found, expected) if each.level is Level.ERROR]


def _of_columns(
    found: Mapping[str, ColumnDefinition], expected: Mapping[str, ColumnDefinition]
) -> Iterator[Difference]:
    for name, column in expected.items():
        if name not in found:
            yield Difference(code="missing_column", level=Level.ERROR, name=name, expected=_described(column))
    for name, column in found.items():
        if name not in expected:
            is_harmless = column.is_nullable or column.default or column.generated
            level = Level.WARNING if is_harmless else Level.ERROR
            yield Difference(code="extra_column", level=level, name=name, found=_described(column))
            continue
        for attribute, level in _ATTRIBUTES.items():
            pair = getattr(column, attribute), getattr(expected[name], attribute)
            if pair[0] != pair[1]:
                code = "nullability" if attribute == "is_nullable" else attribute
                here, there = (_value(attribute, value) for value in pair)
                yield Difference(code=code, level=level, name=name, found=here, expected=there)


def _of_texts(word: str, found: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[Difference]:
    """Compare by text, and names only where texts are equal."""
    left = dict(found)
    for name, text in sorted(expected.items()):
        if left.get(name) == text:
            del left[name]
            continue
        same = next((other for other, each in left.items() if each == text and other not in expected), None)
        unchecked = next((other for other, each in left.items() if _NOT_VALID.sub("", each) == text), None)
        if same is not None:
            del left[same]
            yield Difference(code="name", level=Level.WARNING, name=f"{word} over {text}", found=same, expected=name)
        elif unchecked is not None:
            yield Difference(
                code="not_valid", level=Level.ERROR, name=unchecked, found=left.pop(unchecked), expected=text
            )
        else:
            yield Difference(code=f"missing_{word}", level=Level.ERROR, name=name, expected=text)
    for name, text in sorted(left.items()):
        level = Level.ERROR if word in ("trigger", "reference") else Level.WARNING
        yield Difference(code=f"extra_{word}", level=level, name=name, found=text)


def _described(column: ColumnDefinition) -> str:
    parts = [column.type, "NULL" if column.is_nullable else "NOT NULL"]
    if column.default:
        parts.append(f"DEFAULT {column.default}")
    return " ".join(parts)


def _value(attribute: str, value: Any) -> str:
    if attribute == "is_nullable":
        return "NULL" if value else "NOT NULL"
    return str(value) or "nothing"
