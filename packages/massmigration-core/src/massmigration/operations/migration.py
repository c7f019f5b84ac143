"""Migrations that are a list of operations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import Stage, StageOptions
from massmigration.exceptions import BadMigrationFile
from massmigration.operations.base import DataOperation
from massmigration.operations.context import OperationContext


class OperationsMigration(BaseMigration):
    """A migration that is a list of data operations. Each starts when the previous one has finished."""

    operations: Sequence[DataOperation] = ()
    """The operations, in order."""

    batch_size: int | None = None
    """Rows in each batch, unless an operation sets it (default: adapts to `batch_duration`)."""

    first_batch_size: int | None = None
    """Rows in the first batch of a shard (default: `MASSMIGRATION_BATCH_SIZE`; at most 10 for a set of rows)."""

    batch_duration: dt.timedelta | None = None
    """Target duration of a batch, and so of its row locks (default: the setting `MASSMIGRATION_BATCH_DURATION`)."""

    max_batch_size: int | None = None
    """Maximum number of rows in a batch (default: the setting for batches of this kind)."""

    max_batch_growth: float | None = None
    """How many times larger than the last batch the next one may be, at most (default: 4 times)."""

    on_error: str = "stop"
    """What to do if a row fails, unless an operation sets it: `"stop"` or `"continue"`."""

    max_failures: int | None = StageOptions.max_failures
    """How many failed rows `on_error = "continue"` tolerates in each operation before it stops; None: any number."""

    max_consecutive_failures: int | None = StageOptions.max_consecutive_failures
    """At how many consecutive failed rows within a shard `"continue"` stops; None: never."""

    max_failure_rate: float | None = None
    """Above which share of failed rows in a shard `"continue"` stops (default: `MASSMIGRATION_MAX_FAILURE_RATE`)."""

    lock_rows: bool = True
    """Whether objects that are passed to a function are locked until their batch commits."""

    catch_up: bool = True
    """Whether further passes process the rows that still need the operation behind the cursor."""

    def get_stages(self) -> Sequence[Stage]:
        return [stage for operation in self._checked() for stage in operation.get_stages(self._context(operation))]

    def check_db_alias(self, db_alias: str) -> None:
        """Raise `BadMigrationFile`, too, if an operation cannot run on `db_alias`."""
        super().check_db_alias(db_alias)
        for operation in self._checked():
            context = self._context(operation)
            operation.get_stages(context)
            operation.check_database(context, db_alias)

    @property
    def confirmation(self) -> str:
        try:
            found = [operation.confirmation(self._context(operation)) for operation in self._checked()]
        except BadMigrationFile:  # the launch says what is wrong
            return ""
        return " ".join(filter(None, found))

    def _context(self, operation: DataOperation) -> OperationContext:
        return OperationContext(
            name=self.key,
            operation_name=type(operation).__name__,
            app_label=self.app_label,
            apps=apps,
            db_aliases=self.get_allowed_db_aliases(),
            options=StageOptions.of(self),
        )

    def _checked(self) -> Iterator[DataOperation]:
        given: Any = self.operations
        if not isinstance(given, (list, tuple)) or not given:
            raise BadMigrationFile(
                f"Migration {self.key!r} has operations = {given!r}; it must be a list of at least one operation."
            )
        for operation in given:
            if not isinstance(operation, DataOperation):
                raise BadMigrationFile(
                    f"Migration {self.key!r} has {operation!r} among its operations; allowed are the operations of "
                    "massmigration.operations and subclasses of its DataOperation. Operations on the schema belong in "
                    "Django's migrations."
                )
            yield operation
