"""What travels through a queue: one small JSON document that says where to look in the database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Collection
from enum import Enum

from massmigration.exceptions import BadPayload

VERSION = 1


class JobKind(str, Enum):
    """What a job is a wake-up call for."""

    PLAN = "plan"  # cut the stage into shards, or send what is left of it
    SHARD = "shard"  # work at one shard
    FINISH = "finish"  # look whether all shards are done


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One delivery. It holds ids only; the database alone says what is left to do."""

    kind: JobKind
    key: str
    db_alias: str
    attempt_id: str
    stage: int = 0
    shard: int = 0

    @property
    def what(self) -> str:
        """What it is for, in words."""
        words = {JobKind.PLAN: "plan", JobKind.SHARD: f"shard {self.shard}", JobKind.FINISH: "finish"}
        return f"{words[self.kind]} of stage {self.stage}"

    def dumps(self) -> str:
        return json.dumps({"v": VERSION, **dataclasses.asdict(self), "kind": self.kind.value})

    @classmethod
    def loads(cls, payload: str) -> Job:
        """Raise `BadPayload` unless `payload` is what `dumps` of this version wrote."""
        try:
            fields = json.loads(payload)
            version = fields.pop("v")
            if version != VERSION:
                raise BadPayload(
                    f"Found a job of version {version!r}; this worker understands {VERSION}. "
                    "Run the same version of massmigration in every process."
                )
            job = cls(**{**fields, "kind": JobKind(fields["kind"])})
            uuid.UUID(job.attempt_id)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, BadPayload):
                raise
            raise BadPayload(f"Found {payload!r:.200}, which is not a job ({error}).") from error
        for field, kind in (("key", str), ("db_alias", str), ("attempt_id", str), ("stage", int), ("shard", int)):
            if not isinstance(getattr(job, field), kind):
                raise BadPayload(f"Found {payload!r:.200}, in which {field!r} is not of type {kind.__name__}.")
        return job

    @classmethod
    def of(cls, payload: str, attempt_ids: Collection[object]) -> Job | None:
        """The job that `payload` is, if it belongs to one of these attempts."""
        try:
            job = cls.loads(payload)
        except BadPayload:
            return None
        return job if job.attempt_id in map(str, attempt_ids) else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A job that is to be sent, no sooner than after `delay`."""

    job: Job
    delay: dt.timedelta | None = None
