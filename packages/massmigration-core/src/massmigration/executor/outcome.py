"""How a batch can end."""

from __future__ import annotations

import dataclasses
import datetime as dt
from enum import Enum
from typing import Any

from massmigration.recorder.shards import Claim


class End(Enum):
    """What the job does next."""

    MORE = "the shard has further rows"
    DONE = "the shard is done"
    FAILED = "an object failed; everything before it is committed"
    STOPPED = "the record is not running this attempt"
    LOST = "another worker owns the shard"
    BUSY = "the database refused several times; try later"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a batch ended, and the claim as the batch left it."""

    end: End
    claim: Claim
    error: str = ""
    wait: dt.timedelta | None = None
    """How long to wait before the next batch."""


class Stopped(Exception):
    """The record is not running this attempt."""


class RolledBack(Exception):
    """The server rolled the transaction back, and the operation did not let us know."""


class LookAgain(Exception):
    """Rows of the batch's range still match, and may have come in meanwhile: it is done again, its keys known."""


class OperationRaised(Exception):
    """The user's code raised `error`."""

    def __init__(self, error: Exception, *, at_commit: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.at_commit = at_commit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An object that the operation raised for."""

    object_pk: list[Any] | None
    error: Exception
    failed_id: int | None = None
    """Of the record of its first failure, when it is being done again."""
