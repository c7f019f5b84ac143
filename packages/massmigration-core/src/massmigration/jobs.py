"""Jobs and their payloads, which are small JSON documents that contain only ids."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Collection
from enum import Enum
from typing import Any

from django.db import connections

from massmigration.exceptions import BadPayload

VERSION = 1

MAX_LENGTH = 2_000
"""The maximum length of a payload that is parsed, in characters. A job has a few hundred."""

MAX_TEXT, MAX_NUMBER = 255, 2**31 - 1
"""The limits of the columns that queries compare with a job's fields: characters, and the largest integer."""


class JobKind(str, Enum):
    """The kinds of jobs."""

    PLAN = "plan"  # split the stage into shards, or send the jobs of its remaining shards
    SHARD = "shard"  # process one shard
    FINISH = "finish"  # check whether all shards are done


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job. It contains only ids; the remaining work is in the database."""

    kind: JobKind
    key: str
    db_alias: str
    attempt_id: str
    stage: int = 0
    shard: int = 0
    ticket: str = ""
    """The id of a job of a shard. A claim writes it into the shard's row."""

    after: str = ""
    """The ticket of the job that this job continues, or an empty string.

    A job runs only if the shard's row contains one of these two tickets, or none. So duplicates of a job are dropped
    after its continuation has claimed the shard. If there are several continuations, only the first one to claim runs.
    """

    def continued(self) -> Job:
        """Return a job that continues this one."""
        return dataclasses.replace(self, ticket=str(uuid.uuid4()), after=self.ticket)

    @property
    def what(self) -> str:
        """The purpose of the job, as text."""
        words = {JobKind.PLAN: "plan", JobKind.SHARD: f"shard {self.shard}", JobKind.FINISH: "finish"}
        return f"{words[self.kind]} of stage {self.stage}"

    def dumps(self) -> str:
        return json.dumps({"v": VERSION, **dataclasses.asdict(self), "kind": self.kind.value})

    @classmethod
    def loads(cls, payload: str) -> Job:
        """Return the job in a payload. Raise `BadPayload` if this version cannot have sent it to these databases."""
        if not isinstance(payload, str):
            raise BadPayload(f"Found a payload of type {type(payload).__name__}; a job is a str.")
        if len(payload) > MAX_LENGTH:
            raise BadPayload(
                f"Found a payload that is not a job: it has {len(payload)} characters, and a job has at most "
                f"{MAX_LENGTH}. It begins with {payload[:100]!r}."
            )
        try:
            fields = json.loads(payload)
            version = fields.pop("v")
            if version != VERSION:
                raise BadPayload(
                    f"Found a job of version {version!r:.100}; this worker understands {VERSION}. "
                    "Run the same version of massmigration in every process."
                )
            job = cls(**{**fields, "kind": JobKind(fields["kind"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, BadPayload):
                raise
            raise BadPayload(f"Found {payload!r:.200}, which is not a job ({str(error)!a:.100}).") from error
        if problem := job._problem():
            raise BadPayload(f"Found {payload!r:.200}, {problem}.")
        return job

    def _problem(self) -> str:
        """Return the problem of the fields, or an empty string. With some values, every query would raise."""
        texts, numbers = ("key", "db_alias", "attempt_id", "ticket", "after"), ("stage", "shard")
        for field, kind in [*((name, str) for name in texts), *((name, int) for name in numbers)]:
            value = getattr(self, field)
            if type(value) is not kind:  # a bool is an int
                return f"in which {field!r} is not of type {kind.__name__}"
            if not _is_allowed(value):
                return f"in which {field!r} has a value that no job has"
        if not _is_uuid(self.attempt_id):
            return "which is not a job: its 'attempt_id' is not a UUID"
        if not all(_is_uuid(ticket) for ticket in (self.ticket, self.after) if ticket):
            return "which is not a job: its 'ticket' or 'after' is not a UUID"
        if self.db_alias not in connections:
            aliases = ", ".join(map(repr, connections))
            return f"which is for a database that this worker does not have; it has: {aliases}"
        return ""

    @classmethod
    def of(cls, payload: str, attempt_ids: Collection[object]) -> Job | None:
        """Return the job in a payload, or None if it belongs to none of these attempts."""
        try:
            job = cls.loads(payload)
        except BadPayload:
            return None
        return job if job.attempt_id in map(str, attempt_ids) else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A job to send, with the shortest delay before it may be delivered."""

    job: Job
    delay: dt.timedelta | None = None


def _is_allowed(value: Any) -> bool:
    """Return whether a query can contain the value: no NUL, no lone surrogate, nothing too long for the column."""
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    return 0 <= int(value) <= MAX_NUMBER


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
