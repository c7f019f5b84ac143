"""The records: how far each migration has got, in the database that it changes."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from django.db import models

from massmigration.documents.records import Record, key_of, next_key
from massmigration.states import Status


class MigrationRecord(Record):
    """How far one migration has got on the database that this row is in. No row: never launched."""

    key = models.CharField(max_length=255, primary_key=True, help_text="app_label:name")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.QUEUED)
    attempt_id = models.UUIDField(
        default=uuid.uuid4,
        help_text="Changes with every launch, retry and restart; jobs of other attempts are dropped.",
    )
    stage = models.PositiveIntegerField(default=0, help_text="The stage being worked at, from 0.")
    is_planned = models.BooleanField(default=False, help_text="The present stage has been cut into shards.")
    pass_number = models.PositiveIntegerField(
        default=0, help_text="The present pass over the stage's queryset; from 1 for what was left."
    )
    left = models.PositiveBigIntegerField(null=True, help_text="The fewest objects that a pass has left.")
    stalls = models.PositiveSmallIntegerField(default=0, help_text="How many passes have left no fewer than that.")
    is_managed = models.BooleanField(
        default=True, help_text="False when the migration's own launch() runs it: no plan, no healing, no pause."
    )
    backend = models.CharField(
        max_length=255, blank=True, help_text="Dotted path of the backend that carries its jobs."
    )
    total = models.PositiveBigIntegerField(null=True, help_text="Objects in the present stage, when known.")
    is_total_estimated = models.BooleanField(default=False)
    launched_by = models.CharField(max_length=255, blank=True)
    launched_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True)
    was_faked = models.BooleanField(default=False)
    source_hash = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the file that the attempt began with."
    )
    running_hash = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of another version of the file that a worker ran last."
    )
    next_send_at = models.DateTimeField(null=True, help_text="When healing may send this record's next job again.")
    send_count = models.PositiveSmallIntegerField(
        default=0, help_text="How often healing has sent it; doubles the wait."
    )

    class Meta:
        verbose_name = "mass migration"
        ordering = ("key",)
        permissions = (
            ("run_migrationrecord", "Can launch, retry, restart and fake mass migrations, and resolve failed objects"),
            ("control_migrationrecord", "Can pause, resume, cancel and heal mass migrations"),
            ("forget_migrationrecord", "Can forget mass migrations"),
        )

    def __str__(self) -> str:
        return f"{self.key} ({self.status})"

    @property
    def app_label(self) -> str:
        return self.key.partition(":")[0]

    @property
    def name(self) -> str:
        return self.key.partition(":")[2]

    # The names that django-mass-migration had.

    @property
    def attempt_uuid(self) -> uuid.UUID:
        return self.attempt_id

    @property
    def initiated_at(self) -> dt.datetime | None:
        return self.launched_at

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
        return self.status in (Status.QUEUED, Status.RUNNING, Status.PAUSED)

    @staticmethod
    def key_from_name_tuple(name_tuple: Sequence[str]) -> str:
        """The key of a migration that is given as (app label, name)."""
        app_label, name = name_tuple
        return f"{app_label}:{name}"


class ShardRecord(Record):
    """One pk range of a stage's queryset, worked through in order. A stage done once has one, without a range."""

    # No foreign key in the database: MariaDB would lock the record's row for a batch that records a failed object,
    # after the shard's. The lock order is record, then shards.
    record = models.ForeignKey(MigrationRecord, models.CASCADE, db_constraint=False, related_name="shards")
    attempt_id = models.UUIDField()
    stage = models.PositiveIntegerField()
    index = models.PositiveIntegerField()
    lower = models.JSONField(null=True, help_text="Exclusive; null: from the start.")
    upper = models.JSONField(null=True, help_text="Inclusive; null: a stage that is done once.")
    cursor = models.JSONField(null=True, help_text="The last key done; null: none yet.")
    fence = models.PositiveBigIntegerField(default=0, help_text="What a checkpoint must find unchanged.")
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=255, blank=True, help_text="Who took the lease last.")
    next_send_at = models.DateTimeField(null=True, help_text="When healing may send this shard's job again.")
    send_count = models.PositiveSmallIntegerField(default=0)
    heartbeat_at = models.DateTimeField(null=True)
    processed = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0, help_text="Rows that vanished while their batch ran.")
    failed = models.PositiveBigIntegerField(default=0)
    failed_in_a_row = models.PositiveIntegerField(default=0, help_text="Objects that failed since one did not.")
    batch_size = models.PositiveIntegerField(default=0, help_text="Rows in the next batch; 0: not yet measured.")
    is_done = models.BooleanField(default=False)
    is_redo = models.BooleanField(default=False, help_text="Its range is one of failed objects, by their own id.")
    has_stayed = models.BooleanField(
        default=False,
        help_text="An object that was done still matched the queryset: no further pass is made.",
    )

    group = "record_id"

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
        # By it one shard is found without a look at the others, which other workers write.
        self.pk = self.pk or key_of([self.record_id, self.stage, self.index])


class FailedObject(Record):
    """An object that the operation raised for."""

    record = models.ForeignKey(MigrationRecord, models.CASCADE, db_constraint=False, related_name="failed_objects")
    attempt_id = models.UUIDField()
    stage = models.PositiveIntegerField()
    shard = models.PositiveIntegerField()
    object_pk = models.JSONField(null=True, help_text="Null: the operation of a stage that is done once.")
    was_passed = models.BooleanField(default=False, help_text="The cursor has gone on beyond the object.")
    exception_class = models.CharField(max_length=255)
    message = models.TextField()
    traceback = models.TextField()
    fingerprint = models.CharField(max_length=64, help_text="Equal for failures of one cause.")
    failed_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)
    resolution = models.TextField(blank=True, help_text="Why an operator said that it need not be done again.")
    is_left_out = models.BooleanField(default=False, help_text="The present attempt does not do it again.")

    group = "record_id"
    is_asked_for_later = True

    class Meta:
        ordering = ("pk",)
        indexes = (
            models.Index(fields=("record", "stage", "shard"), name="massmigration_failed"),
            models.Index(fields=("record", "resolved_at", "fingerprint"), name="massmigration_failed_groups"),
        )

    def __str__(self) -> str:
        return f"{self.record_id} {self.object_pk}: {self.exception_class}"

    def make_key(self) -> None:
        self.pk = self.pk or next_key()


class Event(Record):
    """What happened to a migration, and who did it. Forgetting a record keeps its events."""

    key = models.CharField(max_length=255, db_index=True)
    attempt_id = models.UUIDField(null=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=255, blank=True)
    source = models.CharField(max_length=16, blank=True, help_text="page, command or code; empty: a worker.")
    verb = models.CharField(max_length=32)
    from_status = models.CharField(max_length=16, blank=True)
    to_status = models.CharField(max_length=16, blank=True)
    detail = models.TextField(blank=True)

    group = "key"

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.key} {self.verb}"

    def make_key(self) -> None:
        self.pk = self.pk or next_key()
