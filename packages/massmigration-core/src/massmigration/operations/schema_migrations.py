"""Data operations inside Django's own migrations: run in the foreground, in batches, and resumable.

Until Django has recorded its migration as applied, such an operation has a record of its progress. The record's key is
`app_label:0004_name.1` for the first operation of the migration.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import heapq
import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any

from django.db import connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.models import QuerySet

from massmigration import executor
from massmigration.backends.base import BaseBackend
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.documents import conditions, sharding
from massmigration.exceptions import DataOperationFailed, MassMigrationError
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.operations.context import OperationContext, StageSource
from massmigration.paging.keyset import Keyset
from massmigration.paging.querysets import prepare
from massmigration.paging.sharding import ShardPlan
from massmigration.recorder import attempts, records, tables
from massmigration.states import ACTIVE, Status

logger = logging.getLogger(__name__)

LOGGED_WAIT = 2.0
"""Seconds of waiting above which a line is logged."""


class InlineBackend(BaseBackend):
    """The backend in the records of operations that only `migrate` runs.

    Recovery in another process finds their stuck jobs, and sends them here, where they are dropped.
    """

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        logger.info("Dropped %s: only migrate runs it. The next migrate resumes it.", Job.loads(payload))


class InlineRunner:
    """A runner of the jobs of one migration on one database, in this thread."""

    supports_delay = True
    max_delay: dt.timedelta | None = None

    def __init__(self, migration: BaseMigration, db_alias: str, *, actor: str) -> None:
        self._migration = migration
        self._db_alias = db_alias
        self._actor = actor
        self._queue: list[tuple[float, int, Job]] = []
        self._order = itertools.count()

    def run(self) -> None:
        """Launch or resume the migration, and run it to its end. Raise `DataOperationFailed` unless it is applied."""
        with store.registered(self._migration):
            record = self._begin()
            while record is not None and record.status in ACTIVE:
                self._send(record)
                self._work()
                record = self._record()
        if record is None or record.status != Status.APPLIED:
            raise DataOperationFailed(self._problem(record))

    def _begin(self) -> MigrationRecord | None:
        key, db_alias = self._migration.key, self._db_alias
        record = self._record()
        if record is None:
            path = f"{InlineBackend.__module__}.{InlineBackend.__qualname__}"
            records.launch(db_alias, key, backend=path, actor=self._actor)
        elif record.status == Status.PAUSED:
            records.resume(db_alias, key, actor=self._actor)
        elif record.status in attempts.RETRIED:
            attempts.retry(db_alias, key, actor=self._actor)
        return self._record()

    def _record(self) -> MigrationRecord | None:
        return records.get(self._db_alias, self._migration.key)

    def _send(self, record: MigrationRecord) -> None:
        self.enqueue(record.job())

    def _work(self) -> None:
        while self._queue:
            due, _, job = heapq.heappop(self._queue)
            wait = due - time.monotonic()
            if wait > LOGGED_WAIT:
                logger.warning(
                    "Migration %s: another process works on it. Waiting up to %.0f s until it stops or its lease "
                    "expires.",
                    job.key,
                    wait,
                )
            time.sleep(max(wait, 0))
            continuation = executor.run(job, self)
            if continuation is not None:
                self.enqueue(continuation.job, delay=continuation.delay)

    def _problem(self, record: MigrationRecord | None) -> str:
        key = self._migration.key
        if record is None:
            return (
                f"The record of migration {key!r} was deleted meanwhile. Run migrate again to start from the beginning."
            )
        if record.status == Status.FAILED:
            return (
                f"Migration {key!r} failed on database {self._db_alias!r}: {record.last_error}\n"
                "Fix the cause, then run migrate again. It resumes where it stopped."
            )
        if record.status == Status.WAITING:
            return (
                f"Migration {key!r} waits for an operator, which a Django migration cannot do. Move the operation to a "
                "mass migration."
            )
        return f"Migration {key!r} was {record.status} by an operator. Run migrate again to resume it."

    # The transport, as the executor sees it.

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        due = time.monotonic() + (delay.total_seconds() if delay else 0)
        heapq.heappush(self._queue, (due, next(self._order), job))

    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        for job in jobs:
            self.enqueue(job)

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
        return sharding.split(queryset, keyset, 1)

    def stop_requested(self) -> bool:
        return False

    def job_duration(self) -> dt.timedelta:
        duration: dt.timedelta = settings.JOB_DURATION
        return duration


ACTOR = "command:migrate"


def forwards(operation: StageSource, app_label: str, schema_editor: Any, state: Any) -> None:
    """Start or resume the operation, and run it to its end. Raise `DataOperationFailed` if it does not succeed."""
    db_alias = schema_editor.connection.alias
    migration = SingleOperationMigration(operation, app_label, state)
    try:
        if router.allow_migrate(db_alias, app_label) and migration.is_allowed_on(db_alias):
            _run(migration, db_alias)
    except DataOperationFailed:
        raise
    except MassMigrationError as error:
        raise DataOperationFailed(str(error)) from error


def _run(migration: SingleOperationMigration, db_alias: str) -> None:
    stages = migration.get_stages()
    has_tables = tables.exist(db_alias)
    has_record = has_tables and MigrationRecord.objects.using(db_alias).filter(key=migration.key).exists()
    if not has_record and not _has_rows(stages, db_alias):
        return
    _check_transaction(migration, db_alias)
    if not has_tables:
        raise DataOperationFailed(
            f"Migration {migration.key!r} needs the tables of massmigration on database {db_alias!r}. Run: "
            f"manage.py migrate massmigration --database {db_alias}; then run migrate again."
        )
    migration.check_db_alias(db_alias)
    InlineRunner(migration, db_alias, actor=ACTOR).run()


def backwards(operation: StageSource, app_label: str, schema_editor: Any, state: Any) -> None:
    """Leave the data as it is, but have the operation run again when the migration is applied again."""
    forget(SingleOperationMigration(operation, app_label, state).key, schema_editor.connection.alias)


class SingleOperationMigration(BaseMigration):
    """One operation of one of Django's migrations, as a migration for the engine."""

    source_hash = ""

    def __init__(self, operation: StageSource, app_label: str, state: Any) -> None:
        super().__init__(app_label, _name(operation, app_label))
        self._operation = operation
        self._apps = state.apps

    def is_allowed_on(self, db_alias: str) -> bool:
        """Return whether the routers allow the operation's model on the database."""
        return router.allow_migrate_model(db_alias, self._operation.subject(self._context([db_alias])))

    def get_stages(self) -> Sequence[Stage]:
        return self._operation.get_stages(self._context(self.get_allowed_db_aliases()))

    def check_db_alias(self, db_alias: str) -> None:
        self._operation.check_database(self._context([db_alias]), db_alias)

    def _context(self, db_aliases: Sequence[str]) -> OperationContext:
        return OperationContext(
            name=self.key,
            operation_name=type(self._operation).__name__,
            app_label=self.app_label,
            apps=self._apps,
            db_aliases=db_aliases,
        )


def _name(operation: StageSource, app_label: str) -> str:
    """Return the name of the operation's migration, and its position there, as in `0004_name.1`."""
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    for (label, name), migration in loader.disk_migrations.items():
        found: Sequence[Any] = migration.operations
        for index, each in enumerate(found):
            if each is operation and label == app_label:
                return f"{name}.{index + 1}"
    # No file contains the operation, as in tests.
    digest = hashlib.sha256(repr(operation.deconstruct()).encode()).hexdigest()[:12]
    return f"{type(operation).__name__}_{digest}.1"


def _has_rows(stages: Sequence[Stage], db_alias: str) -> bool:
    return any(
        conditions.count(
            prepare(stage.get_queryset(db_alias), db_alias, name=stage.name, may_leave=not stage.atomic), 1
        )
        for stage in stages
        if isinstance(stage, MappedStage)
    )


def _check_transaction(migration: BaseMigration, db_alias: str) -> None:
    blocks = connections[db_alias].atomic_blocks
    if all(getattr(block, "_from_testcase", False) for block in blocks):
        return
    raise DataOperationFailed(
        f"Migration {migration.key!r} cannot commit batch by batch, because its Django migration is one transaction. "
        "Set atomic = False on the Django migration, or move the operation to a migration of its own."
    )


def forget(key: str, db_alias: str) -> None:
    """Delete the record of an operation, unless it is running."""
    if not tables.exist(db_alias):
        return
    record = MigrationRecord.objects.using(db_alias).filter(key=key).first()
    if record is not None and record.status not in ACTIVE:
        attempts.forget(db_alias, key, actor=ACTOR)
