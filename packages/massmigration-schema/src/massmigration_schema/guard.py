"""The refusals that can be seen before anything is created."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from django.template.defaultfilters import filesizeformat

from massmigration_schema import ledger
from massmigration_schema.definition import Level, TableDefinition, differences
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Catalog
from massmigration_schema.dialects.registry import SchemaDialect
from massmigration_schema.exceptions import Refused
from massmigration_schema.locks import LockLimits


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
                "database requires the same type on both sides. Drop these foreign keys first, and enlarge their "
                "columns: see the recipe in the documentation, under common changes of large tables.",
            )
        )
    found += _space(table, catalog)
    if derivation.plan is not None:
        found += catalog.refusals_of(derivation)
        found += _taken(derivation, dialect, db_alias)
    # Without a privilege, there may be nothing to compare with.
    if not derivation.has_model or any(each.code == "online.privileges" for each in found):
        return found
    expected = catalog.expected(derivation.app_label, model, derivation.before)
    return [*found, *_drift(table, definition, expected)]


def alterations(catalog: Catalog, table: str, before: TableDefinition, own_triggers: Collection[str]) -> list[Refused]:
    """Return the reasons why a table cannot be swapped any more, of which it had none when the change began."""
    found, now = catalog.refusals(table, own_triggers), catalog.read(table)
    if now is not None and (listed := differences(_alone(now), _alone(before))):
        found.append(
            Refused(
                "online.drift",
                f"Table {table!r} was altered since the change began: {'; '.join(map(str, listed))}. The new table "
                "does not have this. Undo it, or abort the change and start it again.",
            )
        )
    return found


def _alone(definition: TableDefinition) -> TableDefinition:
    """Return a definition without what other tables and triggers contribute."""
    return dataclasses.replace(definition, incoming={}, triggers={})


def _space(table: str, catalog: Catalog) -> Iterator[Refused]:
    """Yield the refusal of a table for whose copy the server has no space, if it tells."""
    size, free = catalog.size(table), catalog.free_bytes()
    if free is not None and free < 2 * size:
        yield Refused(
            "online.disk",
            f"Table {table!r} has {filesizeformat(size)} with its indexes, and {filesizeformat(free)} are free; "
            "required: twice the table. Free some space, and try again.",
        )


def _taken(derivation: Derivation, dialect: SchemaDialect, db_alias: str) -> Iterator[Refused]:
    """Yield the refusals of a table that has another change, and of names that exist without one."""
    plan = derivation.required_plan()
    other = ledger.busy_with(db_alias, plan.table)
    if other not in (None, plan.key):
        yield Refused("online.busy_table", f"Table {plan.table!r} is being changed by {other!r} already.")
    elif ledger.get(db_alias, plan.key) is None and (
        made := dialect.swap(db_alias, derivation, LockLimits()).tables.made()
    ):
        yield Refused(
            "online.name_taken",
            f"{', '.join(made)} exists already, and belongs to no change. See: manage.py onlinemigration orphans",
        )


def _drift(table: str, found: TableDefinition, expected: TableDefinition) -> list[Refused]:
    """Return the refusal of a table that is not what the earlier migrations have made."""
    listed = [
        each
        for each in differences(_alone(found), expected)
        # The change would lose what is in the last two.
        if each.level is Level.ERROR or each.code in ("extra_column", "extra_foreign_key")
    ]
    if not listed:
        return []
    lines = "; ".join(map(str, listed))
    return [
        Refused(
            "online.drift",
            f"Table {table!r} is not what the applied migrations have made: {lines}. An online change would keep or "
            "lose this. Correct the table, or write a migration that describes it.",
        )
    ]
