"""A migration that is a list of operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.operations.base import DataOperation
from massmigration.operations.context import Context


class OperationsMigration(BaseMigration):
    """Operations on data, one after the other. Each begins when the one before it is done."""

    operations: Sequence[DataOperation] = ()
    """The operations, in order."""

    batch_size: int | None = None
    """Rows in every batch, where an operation does not say; None: batches adapt to `MASSMIGRATION_BATCH_DURATION`."""

    on_error: str = "stop"
    """What to do about a row that fails, where an operation does not say: `"stop"` or `"continue"`."""

    max_failures: int | None = 1000
    """How many failed objects `on_error = "continue"` bears before it stops; None: any number."""

    def get_stages(self) -> Sequence[Stage]:
        context = self._context()
        return [stage for operation in self._checked() for stage in operation.get_stages(context)]

    def check_db_alias(self, db_alias: str) -> None:
        """Raise `BadMigrationFile`, too, for what an operation cannot do on `db_alias`."""
        super().check_db_alias(db_alias)
        context = self._context()
        for operation in self._checked():
            operation.get_stages(context)
            operation.check_database(context, db_alias)

    @property
    def confirmation(self) -> str:
        context = self._context()
        return " ".join(filter(None, (operation.confirmation(context) for operation in self._checked())))

    def _context(self) -> Context:
        return Context(
            name=self.key,
            app_label=self.app_label,
            apps=apps,
            db_aliases=self.get_allowed_db_aliases(),
            atomic=self.atomic,
            idle_limit=self.idle_limit,
            throttle=self.throttle,
            batch_size=self.batch_size,
            on_error=self.on_error,
            max_failures=self.max_failures,
        )

    def _checked(self) -> Iterator[DataOperation]:
        given: Any = self.operations
        if not isinstance(given, (list, tuple)) or not given:
            raise BadMigrationFile(f"Migration {self.key!r} has operations = {given!r}; it must be a list of some.")
        for operation in given:
            if not isinstance(operation, DataOperation):
                raise BadMigrationFile(
                    f"Migration {self.key!r} has {operation!r} among its operations; allowed are those of "
                    "massmigration.operations. Operations on the schema belong in Django's migrations."
                )
            yield operation
