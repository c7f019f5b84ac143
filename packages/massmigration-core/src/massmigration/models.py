"""The records: the progress of each migration, stored in the database that it changes."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from django.db import DatabaseError, connections, models, transaction

from massmigration import text, v03_records
from massmigration.dialects import is_document_database
from massmigration.dialects.times import DatabaseNow, UtcDateTimeField
from massmigration.documents.querysets import DocumentQuerySet
from massmigration.documents.records import DocumentRecord, key_of, next_key
from massmigration.jobs import Job, JobKind
from massmigration.states import Status

logger = logging.getLogger(__name__)

_M = TypeVar("_M", bound=models.Model)


class RecordManager(models.Manager[_M]):
    """The manager of records. Only queries to document databases run the code in `documents`."""

    def get_queryset(self) -> models.QuerySet[_M]:
        if self._db is None or is_document_database(self._db):
            return DocumentQuerySet(self.model, using=self._db)
        return models.QuerySet(self.model, using=self._db)

    def using(self, alias: str | None) -> models.QuerySet[_M]:
        return self.db_manager(alias).get_queryset().using(alias)


class Record(DocumentRecord):
    """Base class of the records, on SQL and document databases."""

    objects = RecordManager()

    class Meta:
        abstract = True

    def save_base(self, *args: Any, **kwargs: Any) -> None:
        using = kwargs.get("using")
        if using and is_document_database(using):
            self.save_document(*args, **kwargs)
        else:
            super().save_base(*args, **kwargs)


class MigrationRecord(Record):
    """The progress of one migration on the database that contains this row. No row: never launched."""

    key = models.CharField(max_length=255, primary_key=True, help_text="app_label:name")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.QUEUED)
    attempt_id = models.UUIDField(
        default=uuid.uuid4,
        help_text="Changes with every launch, retry and restart; jobs of other attempts are dropped.",
    )
    stage = models.PositiveIntegerField(default=0, help_text="The current stage, from 0.")
    is_planned = models.BooleanField(default=False, help_text="The current stage has been split into shards.")
    pass_number = models.PositiveIntegerField(
        default=0, help_text="The current pass over the stage's queryset, from 0."
    )
    fewest_remaining = models.PositiveBigIntegerField(
        null=True, help_text="The lowest number of remaining objects after a pass."
    )
    stalled_passes = models.PositiveSmallIntegerField(
        default=0, help_text="The number of passes that did not lower it."
    )
    is_managed = models.BooleanField(
        default=True, help_text="False when the migration's own launch() runs it: no plan, no recovery, no pause."
    )
    backend = models.CharField(max_length=255, blank=True, help_text="Dotted path of the backend for its jobs.")
    total = models.PositiveBigIntegerField(null=True, help_text="Objects in the current stage, if known.")
    is_total_estimated = models.BooleanField(default=False)
    launched_by = models.CharField(max_length=255, blank=True)
    launched_at = UtcDateTimeField(null=True)
    started_at = UtcDateTimeField(null=True)
    waiting_since = UtcDateTimeField(null=True, help_text="When the current stage began to wait for an operator.")
    finished_at = UtcDateTimeField(null=True)
    last_error = models.TextField(blank=True)
    was_faked = models.BooleanField(default=False)
    source_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the file when the attempt started.")
    running_hash = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of a different version of the file that a worker ran last."
    )
    next_send_at = UtcDateTimeField(null=True, help_text="When recovery may send this record's next job again.")
    send_count = models.PositiveSmallIntegerField(
        default=0, help_text="How often recovery has sent it; doubles the wait."
    )
    stalled_tries = models.PositiveIntegerField(
        default=0, help_text="Consecutive failed attempts to plan or finish the stage."
    )
    stalled_since = UtcDateTimeField(null=True, help_text="Time of the first of them; null: there was none.")
    stalled_error = models.TextField(blank=True, help_text="The last error.")
    limited_until = UtcDateTimeField(
        null=True, help_text="When MaxRowsPerSecond allows the next batch; each batch moves it by its rows."
    )

    pace = models.JSONField(default=dict, blank=True, help_text="What operators have set while it runs.")

    class Meta:
        verbose_name = "mass migration"
        ordering = ("key",)
        permissions = (
            (
                "run_migrationrecord",
                "Can launch, retry, restart, fake and proceed with mass migrations, and resolve failed objects",
            ),
            ("control_migrationrecord", "Can pause, resume, cancel and recover mass migrations"),
            ("forget_migrationrecord", "Can forget mass migrations"),
            ("inspect_migrationrecord", "Can see the messages, tracebacks and details of mass migrations"),
        )

    def __str__(self) -> str:
        return f"{self.key} ({self.status})"

    @property
    def app_label(self) -> str:
        return self.key.partition(":")[0]

    @property
    def name(self) -> str:
        return self.key.partition(":")[2]

    def job(self, kind: JobKind = JobKind.PLAN, *, shard: int = 0) -> Job:
        """Return a job of the current attempt and stage. A plan job sends all that is left of the stage."""
        return Job(
            kind=kind,
            key=self.key,
            db_alias=str(self._state.db),
            attempt_id=str(self.attempt_id),
            stage=self.stage,
            shard=shard,
        )

    @property
    def is_v03_entity(self) -> bool:
        return not self.status

    def convert_v03_entity(self, db_alias: str) -> None:
        old = v03_records.Entity.objects.using(db_alias).filter(key=self.key).first()
        if old is None:
            return
        row = {field.name: getattr(old, field.attname) for field in old._meta.concrete_fields}
        for name, value in v03_records.fields_of(row).items():
            setattr(self, name, value)
        try:
            self._save_taken_over(db_alias, v03_records.detail_of(row))
        except DatabaseError as error:  # another process does the same, or this user may not write
            if connections[db_alias].in_atomic_block:
                raise
            logger.warning("The record of %s was read, but could not be converted: %s", self.key, text.line(error))

    def _save_taken_over(self, db_alias: str, detail: str) -> None:
        with transaction.atomic(using=db_alias):
            present = models.QuerySet(model=type(self), using=db_alias).filter(pk=self.key).first()
            if present is None or not present.is_v03_entity:
                return
            self.save(using=db_alias, force_update=True)
            Event.objects.using(db_alias).create(
                key=self.key,
                attempt_id=self.attempt_id,
                at=DatabaseNow(),
                verb="convert",
                to_status=self.status,
                detail=detail,
            )

    # Names of django-mass-migration 0.3.x.

    @property
    def attempt_uuid(self) -> uuid.UUID:
        return self.attempt_id

    @property
    def initiated_at(self) -> dt.datetime | None:
        found: dt.datetime | None = self.launched_at
        return found

    @property
    def applied_at(self) -> dt.datetime | None:
        return self.finished_at if self.is_applied else None

    @property
    def is_applied(self) -> bool:
        return self.status == Status.APPLIED

    @property
    def has_error(self) -> bool:
        return self.status == Status.FAILED

    @property
    def in_progress(self) -> bool:
        return self.status in (Status.QUEUED, Status.RUNNING, Status.WAITING, Status.PAUSED)

    @staticmethod
    def key_from_name_tuple(name_tuple: Sequence[str]) -> str:
        """Return the key of a migration given as (app label, name)."""
        app_label, name = name_tuple
        return f"{app_label}:{name}"


class Switch(Record):
    """A switch that applies to all migrations of the database."""

    name = models.CharField(max_length=32, primary_key=True)
    is_on = models.BooleanField(default=False)
    changed_at = UtcDateTimeField()
    changed_by = models.CharField(max_length=255, blank=True)
    reason = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.name} {'on' if self.is_on else 'off'}"


PAUSE_ALL = "pause all"
"""The name of the switch that pauses everything."""


def all_paused(db_alias: str) -> Any:
    """Return an expression for a query of `MigrationRecord`: whether everything is paused on the database."""
    is_on = Switch.objects.using(db_alias).filter(name=PAUSE_ALL, is_on=True)
    if is_document_database(db_alias):  # where a query reads one kind
        return models.Value(is_on.exists(), output_field=models.BooleanField())
    return models.Exists(is_on.order_by())


class ShardRecord(Record):
    """One range of keys of a stage's queryset. A stage that is done by one call has one shard without a range."""

    # No foreign key in the database: MariaDB would lock the record's row for a batch that records a failed object,
    # after the shard's. The lock order is record, then shards.
    record = models.ForeignKey(MigrationRecord, models.CASCADE, db_constraint=False, related_name="shards")
    attempt_id = models.UUIDField()
    stage = models.PositiveIntegerField()
    index = models.PositiveIntegerField()
    lower = models.JSONField(null=True, help_text="Exclusive; null: from the start.")
    upper = models.JSONField(null=True, help_text="Inclusive; null: a stage that is done once.")
    cursor = models.JSONField(null=True, help_text="The last processed key; null: none yet.")
    fence = models.PositiveBigIntegerField(
        default=0, help_text="Incremented by every batch; a checkpoint requires that no other batch did so."
    )
    lease_token = models.UUIDField(null=True)
    lease_until = UtcDateTimeField(null=True)
    worker = models.CharField(max_length=255, blank=True, help_text="The worker that took the lease last.")
    next_send_at = UtcDateTimeField(null=True, help_text="When recovery may send this shard's job again.")
    send_count = models.PositiveSmallIntegerField(default=0)
    heartbeat_at = UtcDateTimeField(null=True)
    processed = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0, help_text="Rows that were deleted while their batch ran.")
    failed = models.PositiveBigIntegerField(default=0)
    consecutive_failures = models.PositiveIntegerField(
        default=0, help_text="Failures since the last object that succeeded."
    )
    batch_size = models.PositiveIntegerField(default=0, help_text="Rows in the next batch; 0: not measured yet.")
    changed = models.PositiveBigIntegerField(default=0, null=True, help_text="Rows changed; null: not known.")
    stalled_tries = models.PositiveIntegerField(
        default=0, help_text="Consecutive rounds in which the cursor did not move."
    )
    stalled_since = UtcDateTimeField(null=True, help_text="Time of the first of them; null: there was none.")
    stalled_error = models.TextField(blank=True, help_text="The last error.")
    throttled_until = UtcDateTimeField(null=True, help_text="No claim and no batch before this time.")
    throttled_by = models.CharField(max_length=255, blank=True, help_text="The throttle that requested it.")
    ticket = models.UUIDField(
        null=True, help_text="Ticket of the job that claimed the shard last; older jobs are dropped."
    )
    is_done = models.BooleanField(default=False)
    is_retry = models.BooleanField(
        default=False, help_text="A retry shard: its range is a range of ids of failed objects."
    )
    still_matched = models.BooleanField(
        default=False,
        help_text="A processed object still matched the queryset, so there is no further pass.",
    )

    indexed = ("record_id",)

    class Meta:
        ordering = ("record_id", "stage", "index")
        constraints = (
            models.UniqueConstraint(fields=("record", "stage", "index"), name="massmigration_one_shard_per_index"),
        )

    def __str__(self) -> str:
        return f"{self.record_id} stage {self.stage} shard {self.index}"

    @classmethod
    def keys_among(cls, exact: dict[str, Any]) -> list[Any] | None:
        names = ("record_id", "stage", "index")
        return [key_of([exact[name] for name in names])] if exact.keys() >= {*names} else None

    def make_key(self) -> None:
        # A shard is found by this key alone, without reading the others, which other workers write.
        self.pk = self.pk or key_of([self.record_id, self.stage, self.index])


class FailedObject(Record):
    """An object for which the operation raised an exception."""

    record = models.ForeignKey(MigrationRecord, models.CASCADE, db_constraint=False, related_name="failed_objects")
    attempt_id = models.UUIDField()
    stage = models.PositiveIntegerField()
    shard = models.PositiveIntegerField()
    object_pk = models.JSONField(null=True, help_text="Null: the stage is done by one call.")
    is_behind_cursor = models.BooleanField(default=False, help_text="The migration continued past the object.")
    exception_class = models.CharField(max_length=255)
    message = models.TextField()
    traceback = models.TextField()
    fingerprint = models.CharField(max_length=64, help_text="Equal for failures with one cause.")
    failed_at = UtcDateTimeField()
    resolved_at = UtcDateTimeField(null=True)
    resolution = models.TextField(blank=True, help_text="The operator's reason for marking it as resolved.")
    is_excluded = models.BooleanField(default=False, help_text="The current attempt does not process it again.")

    indexed = ("record_id", "is_behind_cursor")
    long_texts = ("traceback",)
    max_lengths = {"message": 1_000}

    class Meta:
        ordering = ("pk",)
        indexes = (
            models.Index(fields=("is_behind_cursor", "record", "stage", "shard"), name="massmigration_failed"),
            models.Index(fields=("record", "resolved_at", "fingerprint"), name="massmigration_failed_groups"),
        )

    def __str__(self) -> str:
        return f"{self.record_id} {self.object_pk}: {self.exception_class}"

    def make_key(self) -> None:
        self.pk = self.pk or next_key()


class Event(Record):
    """A change of a migration's state and its actor. Events are kept when their record is forgotten."""

    key = models.CharField(max_length=255, db_index=True)
    attempt_id = models.UUIDField(null=True)
    at = UtcDateTimeField()
    actor = models.CharField(max_length=255, blank=True)
    source = models.CharField(max_length=16, blank=True, help_text="page, command or code; empty: a worker.")
    verb = models.CharField(max_length=32)
    from_status = models.CharField(max_length=16, blank=True)
    to_status = models.CharField(max_length=16, blank=True)
    detail = models.TextField(blank=True)

    indexed = ("key",)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.key} {self.verb}"

    def make_key(self) -> None:
        self.pk = self.pk or next_key()
