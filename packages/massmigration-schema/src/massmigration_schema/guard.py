"""The refusals that can be seen before anything is created."""

from __future__ import annotations

from massmigration_schema.definition import TableDefinition, errors
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.registry import SchemaDialect
from massmigration_schema.exceptions import Refused


def refusals(derivation: Derivation, dialect: SchemaDialect, db_alias: str) -> list[Refused]:
    """Return all reasons why the migration cannot be made online on this database."""
    if not derivation.model_name:
        return list(derivation.refusals)
    model = derivation.old_model
    catalog = dialect.catalog(db_alias)
    table = model._meta.db_table
    found = [*derivation.refusals, *catalog.refusals(table)]
    definition = catalog.read(table)
    if definition is None:
        return found
    if derivation.changes_key_type and dialect.requires_equal_types and definition.incoming:
        found.append(
            Refused(
                "online.key_children",
                f"The type of the primary key changes, and {', '.join(sorted(definition.incoming))} refer to it. This "
                "database requires the same type on both sides: drop these foreign keys first.",
            )
        )
    expected = catalog.expected(derivation.app_label, model, derivation.before)
    return [*found, *_drift(table, definition, expected)]


def _drift(table: str, found: TableDefinition, expected: TableDefinition) -> list[Refused]:
    """Return the refusal of a table that is not what the earlier migrations have made."""
    without: dict[str, dict[str, str]] = {"incoming": {}, "triggers": {}}
    parts = {name: getattr(found, name) for name in ("columns", "constraints", "indexes", "foreign_keys", "options")}
    listed = errors(TableDefinition(**{**parts, **without}), expected)
    if not listed:
        return []
    lines = "; ".join(map(str, listed))
    return [
        Refused(
            "online.drift",
            f"Table {table!r} is not what the applied migrations have made: {lines}. An online change would keep this. "
            "Correct the table, or write a migration that describes it.",
        )
    ]
