"""Tables, triggers and schemas in a database that belong to no change in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from massmigration_schema import ledger
from massmigration_schema.dialects.base import Orphan
from massmigration_schema.dialects.registry import SchemaDialect, schema_dialect_of
from massmigration_schema.exceptions import Refused
from massmigration_schema.locks import LockLimits, patiently


def of_database(db_alias: str) -> list[Orphan]:
    """Return the tables, triggers and schemas of changes that the ledger does not know. Triggers come first."""
    known = ledger.tags(db_alias)
    return [each for each in _dialect(db_alias).catalog(db_alias).orphans() if each.tag not in known]


def drop(orphans: Sequence[Orphan], db_alias: str) -> None:
    """Drop them. Each trigger needs the lock of its table."""
    dialect = _dialect(db_alias)
    catalog, lock = dialect.catalog(db_alias), dialect.lock(db_alias)
    for orphan in orphans:
        if orphan.kind == "trigger":
            patiently(lock, orphan.table, lambda orphan=orphan: catalog.drop_orphan(orphan), LockLimits())  # type: ignore[misc]
        else:
            catalog.drop_orphan(orphan)


def _dialect(db_alias: str) -> SchemaDialect:
    found = schema_dialect_of(db_alias)
    if found is None:
        raise Refused("online.database", f"Tables of database {db_alias!r} cannot be changed online.")
    return found
