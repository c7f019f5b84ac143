"""Reports on what schema migrations would do, and the search for their changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.migrations.loader import MigrationLoader

from massmigration.dialects import dialect_of
from massmigration.exceptions import MigrationNotFound
from massmigration.loader import store
from massmigration_schema import guard, original, strategy
from massmigration_schema.change import TableChange
from massmigration_schema.costs import OperationCost
from massmigration_schema.derivation import Derivation, derive
from massmigration_schema.dialects.registry import schema_dialect_of
from massmigration_schema.exceptions import Refused
from massmigration_schema.options import Online
from massmigration_schema.table import OnlineTable

DEFAULT = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReport:
    """The effects of a schema migration on its table on one database."""

    migration: Any
    derivation: Derivation
    costs: Sequence[OperationCost]
    refusals: Sequence[Refused]
    is_direct: bool
    """Whether `migrate` alters the table, however large it is."""

    estimated_rows: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as an object that JSON can store."""
        plan = self.derivation.plan
        return {
            "migration": f"{self.derivation.app_label}.{self.derivation.name}",
            "is_direct": self.is_direct,
            "estimated_rows": self.estimated_rows,
            "operations": [
                {"description": str(each.description), "cost": each.cost.name.lower(), "statements": each.statements}
                for each in self.costs
            ],
            "plan": plan and plan.to_json(),
            "warnings": self.derivation.warnings,
            "refusals": [{"code": each.code, "text": str(each)} for each in self.refusals],
        }

    def to_text(self) -> str:
        """Return the report as lines."""
        derivation = self.derivation
        rows = "" if self.estimated_rows is None else f", about {self.estimated_rows} rows"
        table = f": table {derivation.plan.table}{rows}" if derivation.plan else ""
        lines = [f"{derivation.app_label}.{derivation.name}{table}"]
        for each in self.costs:
            lines += [f"  {each.description}", f"    {each.cost.meaning}"]
            lines += [f"    {statement}" for statement in each.statements]
        if self.costs:
            answer = "alters the table, however large it is" if self.is_direct else "refuses to alter a large table"
            lines.append(f"`migrate` {answer}.")
        lines += [f"Warning: {warning}" for warning in derivation.warnings]
        lines += [f"Refused ({refusal.code}): {refusal}" for refusal in self.refusals]
        return "\n".join(lines)


def find(app_label: str, name: str, db_alias: str = DEFAULT) -> TableChange:
    """Return the change of a table. Raise `MigrationNotFound` if there is no migration that makes it online."""
    changes = _changes(app_label, name) or original.listed(app_label, name, db_alias)
    if len(changes) != 1:
        listed = ", ".join(each.given_name for each in changes) or "none"
        raise MigrationNotFound(
            f"App {app_label!r} has no single online migration {name!r}; found {listed}. Its base class must be "
            "OnlineMigration or OnlineTable."
        )
    return changes[0]


def _changes(app_label: str, name: str) -> list[TableChange]:
    """Return the changes with a name that begins so, or the only one that has exactly this name."""
    found = [each for each in store.all if isinstance(each, TableChange) and each.app_label == app_label]
    exact = [each for each in found if each.given_name == name]
    return exact or [each for each in found if each.given_name.startswith(name)]


def plan(app_label: str, name: str, db_alias: str = DEFAULT) -> PlanReport:
    """Return what a schema migration would do to its table. Change nothing and read no row.

    The catalog is read, and empty copies of the table are made and dropped again. Raise `MigrationNotFound`, and
    `Refused` on a database whose tables cannot be changed online.
    """
    migration, derivation = _derivation(app_label, name, db_alias)
    dialect = schema_dialect_of(db_alias)
    if dialect is None:
        title = connections[db_alias].display_name
        raise Refused("online.database", f"Tables on {title} cannot be changed online. `migrate` alters them directly.")
    refusals = guard.refusals(derivation, dialect, db_alias)
    online = getattr(migration, "online", Online())
    is_known = derivation.plan is not None and not any(each.code == "online.table" for each in refusals)
    is_asked = is_known and derivation.has_model  # other tables are always copied
    is_direct, costs = strategy.is_direct(derivation, online, dialect, db_alias) if is_asked else (False, [])
    return PlanReport(
        migration=migration,
        derivation=derivation,
        costs=costs,
        refusals=refusals,
        is_direct=is_direct,
        estimated_rows=dialect_of(db_alias).estimated_table_rows(derivation.old_model) if is_known else None,
    )


def _derivation(app_label: str, name: str, db_alias: str) -> tuple[Any, Derivation]:
    tables = [each for each in _changes(app_label, name) if isinstance(each, OnlineTable)]
    if len(tables) == 1:
        tables[0].forget_trial(db_alias)
        return tables[0], tables[0].derivation(db_alias)
    loader = MigrationLoader(None, ignore_no_migrations=True)
    try:
        migration = loader.get_migration_by_prefix(app_label, name)
    except (KeyError, ValueError) as error:
        raise MigrationNotFound(f"App {app_label!r} has no single schema migration {name!r}: {error}") from error
    before: Any = loader.project_state((app_label, migration.name), at_end=False)
    return migration, derive(migration, before, db_alias)
