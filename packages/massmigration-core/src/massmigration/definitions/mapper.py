"""A migration that is mapped over the objects of a queryset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MAX_CONSECUTIVE_FAILURES, MAX_FAILURES, Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.recorder import own_runs

logger = logging.getLogger(__name__)


class MapperMigration(BaseMigration):
    """An operation on every object of a queryset, in batches.

    There are three ways to write. `operation` alone: it saves the object itself. `operation` with
    `update_fields`: it only assigns, and the engine writes the changed fields of the whole batch in one
    statement. `operation_batch`: it is given each batch as a queryset, for set-based work.
    """

    backend_method = "run_mapper"

    update_fields: Sequence[str] | None = None
    """Names of the fields that the engine writes back after `operation`."""

    cursor_field: str | None = None
    """The name of the field that batches go by: unique, never null, ordered; None: the primary key."""

    batch_size: int | None = None
    """Rows in every batch; None: batches adapt to `MASSMIGRATION_BATCH_DURATION`."""

    on_error: str = "stop"
    """What to do about an object for which `operation` raises.

    `"stop"`: everything before it is committed and the migration fails; a retry goes on at it. `"continue"`: it is
    recorded and the work goes on; at the end the migration is failed, and a retry does the failed objects again.
    """

    max_failures: int | None = MAX_FAILURES
    """How many failed objects `on_error = "continue"` bears before it stops; None: any number."""

    max_consecutive_failures: int | None = MAX_CONSECUTIVE_FAILURES
    """How many failed objects in a row, within a shard, it bears: then it is no object's fault. None: any number."""

    lock_rows: bool = True
    """Whether objects given to `operation` are locked until their batch commits.

    Without the locks, an edit that is made while the batch runs is kept in every column but those in
    `update_fields`; without `update_fields` it is overwritten by `save()`.
    """

    catch_up: bool = True
    """Whether objects that come into the queryset behind the cursor are done in further passes.

    They are where everything that was done has been seen to leave the queryset, and nowhere else.
    """

    def get_queryset(self, db_alias: str) -> QuerySet[Any]:
        """The objects to work through. Ordering is dropped; batches go by primary key."""
        raise NotImplementedError

    def operation(self, obj: Any, db_alias: str) -> None:
        """Change one object."""
        raise NotImplementedError

    def operation_batch(self, queryset: QuerySet[Any], db_alias: str) -> None:
        """Change the objects of one batch, for instance by `queryset.update()`."""
        raise NotImplementedError

    def remaining(self, db_alias: str) -> int:
        """How many objects still need it. With this method, the migration is applied only when it has returned 0."""
        raise NotImplementedError

    def wrapped_operation(self, obj: Any, attempt_uuid: UUID | str, db_alias: str) -> bool:
        """Change one object here and now, while the attempt lasts; return whether that was done. For custom backends.

        An operation that raises ends the attempt; the caller need not go on.
        """
        if not own_runs.is_running(db_alias, self.key, attempt_uuid):
            logger.warning("Attempt %s of migration %s is over: skipped object %r.", attempt_uuid, self.key, obj.pk)
            return False
        try:
            self.operation(obj, db_alias)
        except Exception as error:
            logger.exception("The operation of migration %s raised for object %r.", self.key, obj.pk)
            self.mark_as_errored(db_alias, error, attempt_uuid)
            return False
        return True

    def get_stages(self) -> Sequence[Stage]:
        own = type(self)
        by_object = own.operation is not MapperMigration.operation
        by_batch = own.operation_batch is not MapperMigration.operation_batch
        self._check_methods(by_object=by_object, by_batch=by_batch)
        return [
            self.mapped(
                get_queryset=self.get_queryset,
                operation=self.operation if by_object else None,
                operation_batch=self.operation_batch if by_batch else None,
                update_fields=self.update_fields,
                cursor_field=self.cursor_field,
                lock_rows=self.lock_rows,
                on_error=self.on_error,
                max_failures=self.max_failures,
                max_consecutive_failures=self.max_consecutive_failures,
                batch_size=self.batch_size,
                catch_up=self.catch_up,
                remaining=self.remaining if own.remaining is not MapperMigration.remaining else None,
            )
        ]

    def _check_methods(self, *, by_object: bool, by_batch: bool) -> None:
        problem = ""
        if type(self).get_queryset is MapperMigration.get_queryset:
            problem = "has no get_queryset(self, db_alias) method; add one"
        elif by_object and by_batch:
            problem = "has both operation() and operation_batch(); keep one"
        elif not by_object and not by_batch:
            problem = (
                "has neither operation(self, obj, db_alias) nor operation_batch(self, queryset, db_alias); add one"
            )
        elif by_batch and self.update_fields is not None:
            problem = "has update_fields, which operation_batch() does not use; remove one of them"
        elif isinstance(self.update_fields, str) or (self.update_fields is not None and not self.update_fields):
            problem = f"has update_fields = {self.update_fields!r}; it must be a list of field names"
        elif self.on_error not in ("stop", "continue"):
            problem = f"has on_error = {self.on_error!r}; allowed: 'stop', 'continue'"
        elif self.max_failures is not None and self.max_failures < 0:
            problem = f"has max_failures = {self.max_failures!r}; it must be 0 or more, or None"
        elif self.max_consecutive_failures is not None and self.max_consecutive_failures < 1:
            problem = f"has max_consecutive_failures = {self.max_consecutive_failures!r}; it must be 1 or more, or None"
        elif self.batch_size is not None and self.batch_size < 1:
            problem = f"has batch_size = {self.batch_size!r}; it must be 1 or more, or None"
        if problem:
            raise BadMigrationFile(f"Migration {self.key!r} {problem}.")
