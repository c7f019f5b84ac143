"""`OnlineMigration`, the base class of schema migrations of large tables."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations
from django.db.migrations.state import ProjectState

from massmigration.exceptions import GateClosed
from massmigration_schema import direct
from massmigration_schema.derivation import Derivation, derive
from massmigration_schema.dialects.registry import SchemaDialect, schema_dialect_of
from massmigration_schema.exceptions import RefusedForReasons
from massmigration_schema.options import Online
from massmigration_schema.strategy import are_small, is_direct
from massmigration_schema.transforms import Values


class OnlineMigration(migrations.Migration):
    """A schema migration that does not block the users of a large table for long.

    `migrate` alters small tables, and larger ones if no operation rewrites the table or blocks its writers. Otherwise
    it refuses, and `onlinemigration start` makes the change.
    """

    online: ClassVar[Online] = Online()
    """How the change is made."""

    def apply(self, project_state: ProjectState, schema_editor: Any, collect_sql: bool = False) -> ProjectState:
        """Apply the operations directly, or raise `GateClosed` and change nothing."""
        dialect = schema_dialect_of(schema_editor.connection.alias)
        if collect_sql or dialect is None:
            return self._altered(project_state, schema_editor, collect_sql)
        before = project_state.clone()
        self._require_direct(before, schema_editor.connection.alias, dialect)

        def call() -> ProjectState:
            return self._altered(before.clone(), schema_editor)

        return direct.alter(call, schema_editor, self._table(before), online=self.online, dialect=dialect)

    def _altered(self, before: ProjectState, schema_editor: Any, collect_sql: bool = False) -> ProjectState:
        """Apply the operations, and write the values of transforms, which the old columns give."""
        transforms, db_alias = self.online.transforms, schema_editor.connection.alias
        if not transforms:
            return super().apply(before, schema_editor, collect_sql)
        derivation = derive(self, before.clone(), db_alias)
        refused = [each for each in derivation.refusals if each.code in ("online.models", "online.transform")]
        if refused:
            raise RefusedForReasons(f"{self.app_label}.{self.name}", refused)
        if collect_sql:
            schema_editor.collected_sql.append(f"-- After the operations, every row gets {', '.join(transforms)}.")
            return super().apply(before, schema_editor, collect_sql)
        values = Values.of(derivation.old_model, transforms, db_alias)
        after = super().apply(before, schema_editor, collect_sql)
        values.write(after.apps.get_model(self.app_label, derivation.model_name), db_alias)
        return after

    def unapply(self, project_state: ProjectState, schema_editor: Any, collect_sql: bool = False) -> ProjectState:
        """Apply the reverse operations directly if the table is small, or raise `GateClosed` and change nothing."""
        dialect = schema_dialect_of(schema_editor.connection.alias)
        if collect_sql or dialect is None:
            return super().unapply(project_state, schema_editor, collect_sql)
        catalog, rows = dialect.catalog(schema_editor.connection.alias), self.online.direct_up_to
        after = project_state.clone()
        for operation in self.operations:
            operation.state_forwards(self.app_label, after)
        is_small = are_small(self.operations, after, self.app_label, catalog, rows)
        if self.online.strategy != "direct" and not is_small:
            raise GateClosed(
                f"Schema migration {self.app_label}.{self.name} cannot be reversed on a table of more than {rows} "
                'rows: its writers would be blocked. Write a new migration, or set strategy="direct" in its '
                "Online() to reverse it nevertheless."
            )

        def call() -> ProjectState:
            return super(OnlineMigration, self).unapply(project_state, schema_editor)

        return direct.alter(call, schema_editor, self._table(after), online=self.online, dialect=dialect)

    def _table(self, state: ProjectState) -> str:
        """Return a table that the operations change, for messages and for the question who uses it."""
        for operation in self.operations:
            name = str(getattr(operation, "model_name", None) or getattr(operation, "name", "")).lower()
            if (self.app_label, name) in state.models:
                return str(state.apps.get_model(self.app_label, name)._meta.db_table)
        return ""

    def _require_direct(self, before: ProjectState, db_alias: str, dialect: SchemaDialect) -> None:
        from massmigration_schema import ledger  # it imports models, which cannot be imported while apps are loaded

        if ledger.get(db_alias, f"{self.app_label}:{self.name}.schema") is not None:
            raise GateClosed(
                f"Schema migration {self.app_label}.{self.name} is being made online. See: manage.py onlinemigration "
                f"status {self.app_label} {self.name}"
            )
        catalog, rows = dialect.catalog(db_alias), self.online.direct_up_to
        if are_small(self.operations, before, self.app_label, catalog, rows):
            return
        derivation = derive(self, before, db_alias)
        is_allowed, costs = is_direct(derivation, self.online, dialect, db_alias)
        if is_allowed:
            return
        if derivation.plan is None:
            raise GateClosed(str(RefusedForReasons(f"{self.app_label}.{self.name}", derivation.refusals)))
        raise GateClosed(self._needs_copy(derivation, [str(each.description) for each in costs if each.cost > 1]))

    def _needs_copy(self, derivation: Derivation, dear: list[str]) -> str:
        return (
            f"Schema migration {self.app_label}.{self.name} was not applied: table "
            f"{derivation.old_model._meta.db_table!r} has more than {self.online.direct_up_to} rows, and its writers "
            f"would be blocked by: {'; '.join(dear) or 'the strategy chosen'}. Make it online: manage.py "
            f"onlinemigration start {self.app_label} {self.name}"
        )
