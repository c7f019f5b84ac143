"""The input of an `OnlineTable`: clauses of ALTER TABLE, their builder, and definitions of whole tables."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import sqlparse
from django.db import DatabaseError
from django.db.migrations.operations.base import Operation

from massmigration.exceptions import BadMigrationFile
from massmigration_schema.exceptions import Refused

IDENTIFIER = r"(?:`[^`]+`|\"[^\"]+\"|[^\s`\"(;]+)"
CREATE_TABLE = re.compile(rf"\s*CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<table>{IDENTIFIER})", re.IGNORECASE)
CREATE_INDEX = re.compile(
    rf"\s*CREATE\s+(?P<kind>(?:UNIQUE|FULLTEXT|SPATIAL)\s+)?INDEX\s+(?P<name>{IDENTIFIER})\s+"
    rf"(?P<using>USING\s+\w+\s+)?ON\s+(?P<table>{IDENTIFIER})",
    re.IGNORECASE,
)
QUOTED = re.compile(r"'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`", re.DOTALL)
RENAMES = re.compile(r"\b(?:RENAME\s+(?:COLUMN\b|\S+\s+TO\b)|CHANGE\b)", re.IGNORECASE)
"""What renames a column. An index is renamed by RENAME INDEX, KEY or CONSTRAINT, which renames no column."""

NOT_SUPPORTED = (
    (re.compile(r"\b(?:FOREIGN\s+KEY|REFERENCES)\b", re.IGNORECASE), "Foreign keys are carried over as they are."),
    (
        re.compile(r"\bRENAME\s+(?!COLUMN\b|INDEX\b|KEY\b|CONSTRAINT\b|\S+\s+TO\b)|\bSET\s+SCHEMA\b", re.IGNORECASE),
        "The table keeps its name.",
    ),
)


def identifier(name: Any) -> str:
    """Return the name of a table, column or index. Raise `BadMigrationFile` if it cannot be quoted safely."""
    if not isinstance(name, str) or not name or len(name) > 64 or re.search('[`"\0]', name):
        raise BadMigrationFile(
            f"Found the name {name!r:.200}; a name of a table, column or index has 1 to 64 characters, and no "
            "quotation marks."
        )
    return name


@dataclasses.dataclass(frozen=True)
class AddColumn:
    """A new column. `definition`: its type, and what else the server allows there."""

    name: str
    definition: str

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        return f"ALTER TABLE {table} ADD COLUMN {quote(identifier(self.name))} {self.definition}"


@dataclasses.dataclass(frozen=True)
class RenameColumn:
    """A new name of a column."""

    old: str
    new: str

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        return f"ALTER TABLE {table} RENAME COLUMN {quote(identifier(self.old))} TO {quote(identifier(self.new))}"


@dataclasses.dataclass(frozen=True)
class DropColumn:
    """The end of a column."""

    name: str

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        return f"ALTER TABLE {table} DROP COLUMN {quote(identifier(self.name))}"


@dataclasses.dataclass(frozen=True)
class AddIndex:
    """A new index of columns."""

    name: str
    columns: Sequence[str]
    is_unique: bool = False

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        columns = ", ".join(quote(identifier(each)) for each in self.columns)
        kind = "UNIQUE INDEX" if self.is_unique else "INDEX"
        return f"CREATE {kind} {quote(identifier(self.name))} ON {table} ({columns})"


@dataclasses.dataclass(frozen=True)
class Clause:
    """A clause of ALTER TABLE, as it is written in a file."""

    text: str

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        return f"ALTER TABLE {table} {self.text}"


@dataclasses.dataclass(frozen=True)
class IndexStatement:
    """A statement CREATE INDEX, as it is written in a file."""

    text: str
    table: str

    def sql(self, quote: Callable[[str], str], table: str) -> str:
        """Return the statement on a table."""
        found = CREATE_INDEX.match(self.text)
        assert found is not None
        name = quote(identifier(_unquoted(found["name"])))
        return f"CREATE {found['kind'] or ''}INDEX {name} {found['using'] or ''}ON {table}{self.text[found.end() :]}"


TABLE = "<table>"
"""Stands for the table while a template is made. Every statement has it before anything that a file contains."""

AnyChange = AddColumn | RenameColumn | DropColumn | AddIndex | Clause | IndexStatement


def checked(statement: str) -> str:
    """Return a statement. Raise `BadMigrationFile` if it is more than one, or does what is not supported."""
    bare = QUOTED.sub("''", statement)
    if len([each for each in sqlparse.split(statement) if each.strip(" \n;")]) != 1 or ";" in bare.rstrip(" \n;"):
        raise BadMigrationFile(f"Found {statement!r:.300}; allowed: one statement, or one clause of ALTER TABLE.")
    for pattern, reason in NOT_SUPPORTED:
        if found := pattern.search(bare):
            raise BadMigrationFile(f"Found {found[0].strip()!r} in {statement!r:.300}. {reason}")
    return statement


def created(definition: str, table: str) -> str:
    """Return a CREATE TABLE in which `%(table)s` stands for the table, and each other percent sign is doubled."""
    found = CREATE_TABLE.match(checked(definition))
    if found is None or _unquoted(found["table"]) != table:
        raise BadMigrationFile(
            f"definition is {definition!r:.100}; it must begin with CREATE TABLE and the name of the table, {table!r}."
        )
    start, end = found.span("table")
    head, rest = (part.replace("%", "%%") for part in (definition[:start], definition[end:]))
    return f"{head}%(table)s{rest}".rstrip().rstrip(";")


def index_statement(text: str, table: str) -> IndexStatement:
    """Return a CREATE INDEX. Raise `BadMigrationFile` if it is none, or is for another table."""
    found = CREATE_INDEX.match(checked(text))
    if found is None or _unquoted(found["table"]) != table:
        raise BadMigrationFile(f"indexes contains {text!r:.200}; it must be CREATE INDEX … ON the table, {table!r}.")
    return IndexStatement(text.rstrip().rstrip(";"), table)


def _unquoted(name: str) -> str:
    return name[1:-1] if name[0] in '`"' else name


def template(change: AnyChange, quote: Callable[[str], str]) -> str:
    """Return the statement of a change, in which `%(table)s` stands for the table."""
    return change.sql(quote, TABLE).replace("%", "%%").replace(TABLE, "%(table)s", 1)


class Statement(Operation):
    """An operation of a migration that is one statement on the table of a model.

    It notes the names of the columns before and after it, by which a rename is recognized.
    """

    reduces_to_sql = True
    reversible = False

    def __init__(self, text: str, model_name: str) -> None:
        self.text = text
        self.model_name = model_name
        self.columns: tuple[list[str], list[str]] = ([], [])

    def describe(self) -> str:
        """Return the statement."""
        return self.text % {"table": "…"}

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave the state as it is: it has only the table's key."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Execute the statement. Raise `Refused` if the server does."""
        connection = schema_editor.connection
        table = from_state.apps.get_model(app_label, self.model_name)._meta.db_table
        before = _names(connection, table)
        try:
            schema_editor.execute(self.text % {"table": connection.ops.quote_name(table)}, None)
            self.columns = before, _names(connection, table)
        except DatabaseError as error:
            raise Refused("online.clause", f"{self.describe()} failed: {str(error).strip()}") from error

    def renamed(self) -> tuple[str, str] | None:
        """Return the old and the new name of the column that was renamed, or None. Raise `Refused` if it is unclear."""
        before, after = self.columns
        gone, new = [each for each in before if each not in after], [each for each in after if each not in before]
        count = len(RENAMES.findall(QUOTED.sub("x", self.describe())))
        if not count:
            return None
        if count == 1 and len(gone) == len(new) == 1:
            return gone[0], new[0]
        if count == 1 and not gone and not new:
            return None
        raise Refused(
            "online.rename",
            f"{self.describe()} renames a column, and it is not clear which: gone are {', '.join(gone) or 'none'}, and "
            f"new are {', '.join(new) or 'none'}. Write one clause for each rename, and one for each other change.",
        )


def _names(connection: Any, table: str) -> list[str]:
    with connection.cursor() as cursor:
        return [column.name for column in connection.introspection.get_table_description(cursor, table)]
