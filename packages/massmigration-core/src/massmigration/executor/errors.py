"""Classification of the errors of a batch, and retries after errors that may be temporary."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import random
import time
from collections.abc import Iterator
from typing import Any, Protocol

from django.db import DatabaseError, InterfaceError, InternalError, connections, transaction

from massmigration import text
from massmigration.conf import settings
from massmigration.dialects.errors import is_cancelled, is_lost_connection, is_timeout, is_transient, with_advice
from massmigration.exceptions import DDLInBatch, IdleLimitExceeded, LostShard, NoProgress, NotNow
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.executor.outcomes import Batch, BatchEnd, Outcome, fail_batch
from massmigration.recorder import failures, shards, waits
from massmigration.recorder.failures import Stall
from massmigration.recorder.shards import Claim, PaceChanged, RolledBack, Stopped

logger = logging.getLogger(__name__)

TRIES = 8
"""The number of times a job tries a refused batch before it ends and its continuation is delayed."""

MAX_STAYS = 2
"""The number of batches without progress of the cursor after which the migration fails."""

MAX_SAT_IDLE = 2
"""The number of connections lost past the idle limit after which the migration fails. One may be a frozen process."""

LONGEST = dt.timedelta(days=365)
"""The maximum of the delay that an operation asks for."""

MAX_REASON = 255
"""The maximum length of the reason for a wait: that of its column."""

MAX_BACK_OFF = 2.0
"""The maximum number of seconds between two tries."""

UNNOTED_TRIES = 2
UNNOTED_TIME = 1.0
"""Trouble that ends within so many tries and seconds is not recorded."""

ATOMIC_FALSE_ADVICE = "Set atomic = False on the migration; its operation may then be repeated after a crash."

_SWALLOWED = (
    "The operation caught a database error without transaction.atomic() around the statement that raised it, "
    "so everything that it wrote for this object is lost. Put the statement into transaction.atomic()."
)


class CursorStays(Exception):
    """The batch would end at the key where it started, although it has fetched rows."""


class TimedOut(Exception):
    """The server has ended a statement because of its time limit. A smaller batch may be fast enough."""

    def __init__(self, error: Exception) -> None:
        super().__init__(text.safe(error))
        self.error = error


class ConcurrentInsert(Exception):
    """Rows in the batch's range still match and may be new. The batch runs again after its keys are fetched."""


class OperationRaised(Exception):
    """The user's code raised `error`."""

    def __init__(self, error: Exception, *, at_commit: bool = False) -> None:
        super().__init__(text.safe(error))
        self.error = error
        self.at_commit = at_commit


def judged(error: Exception, *, can_shrink: bool = False, at_commit: bool = False) -> Exception:
    """Return the exception to raise for an error of the user's code, or of a statement that the code made fail.

    Return the error itself if it is transient, so that the batch is retried, or if it is a signal of the engine. Return
    `TimedOut` for a timeout if a smaller batch is possible (`can_shrink`) and may be fast enough. Otherwise return
    `OperationRaised`.
    """
    if isinstance(error, (ConcurrentInsert, NotNow)) or is_transient(error):
        return error
    if can_shrink and is_timeout(error):
        return TimedOut(error)
    return OperationRaised(explained(error), at_commit=at_commit)


@contextlib.contextmanager
def operation_blamed(
    kinds: type[Exception] | tuple[type[Exception], ...] = Exception, *, can_shrink: bool = False
) -> Iterator[None]:
    """Raise `judged(error)` for errors of these kinds."""
    try:
        yield
    except kinds as error:
        found = judged(error, can_shrink=can_shrink)
        if found is error:
            raise
        raise found from error


def check_not_spoiled(db_alias: str) -> None:
    """Raise if the operation swallowed a database error: Django would roll the savepoint back silently."""
    if connections[db_alias].needs_rollback:
        raise transaction.TransactionManagementError(_SWALLOWED)


def explained(error: Exception) -> Exception:
    """Return the error, with advice if it is about the batch's own transaction."""
    advised: Exception
    if is_timeout(error):
        return with_advice(error)
    told = text.safe(error)
    if isinstance(error, RuntimeError) and "durable" in told and "atomic" in told:
        advised = RuntimeError(f"{told} A batch is a transaction already. {ATOMIC_FALSE_ADVICE}")
    elif _is_consequence(error):
        advised = transaction.TransactionManagementError(_SWALLOWED)
    else:
        return error
    advised.__cause__ = error
    return advised.with_traceback(error.__traceback__)


def _is_consequence(error: Exception) -> bool:
    """Return whether Django or PostgreSQL raises this error for every statement after a failed statement."""
    if isinstance(error, transaction.TransactionManagementError):
        return "until the end of the 'atomic' block" in text.safe(error)
    states = (getattr(error.__cause__, name, None) for name in ("sqlstate", "pgcode"))
    return isinstance(error, InternalError) and "25P02" in states


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The reason why one try of a batch failed."""

    error: Exception
    waits: bool = False
    """Whether the cause ends by itself. If so, the try does not count as a round without progress."""


def trouble_of(db_alias: str, error: Exception) -> Trouble:
    """Return the trouble for an error after which the batch is tried again. Raise any other error."""
    if isinstance(error, TimedOut):
        return Trouble(error=error.error)
    if isinstance(error, RolledBack):
        return Trouble(error=NoProgress(_rolled_back(error)))
    if isinstance(error, CursorStays):
        return Trouble(error=NoProgress(str(error)))
    if isinstance(error, ConcurrentInsert):
        return Trouble(error=NoProgress("In every try, rows entered the range of the batch while it ran."))
    if isinstance(error, (DatabaseError, InterfaceError)):
        if is_timeout(error):  # while it waited for the shard's row
            return Trouble(error=error, waits=True)
        if not is_transient(error):
            raise error
        return Trouble(error=error, waits=ends_by_itself(db_alias, error))
    return Trouble(error=error, waits=isinstance(error, LostShard))


def _rolled_back(error: RolledBack) -> str:
    cause = error.__cause__
    because = f" The last error: {text.described(cause)}" if cause else ""
    return (
        "The batch's transaction was rolled back, or its connection was closed, before the batch ended, and the "
        "operation raised no exception. It may have caught an error, or ended the transaction or the connection "
        f"itself.{because}"
    )


def ends_by_itself(db_alias: str, error: BaseException) -> bool:
    """Return whether the cause of a transient error ends by itself.

    It does not if a connection was lost but the server answers immediately.
    """
    if is_cancelled(error):
        return False
    return not (is_lost_connection(error) and _answers(db_alias))


def line_of(error: BaseException, *, is_waiting: bool) -> str:
    """Return the line for the record about an error while the engine keeps trying."""
    code = text.database_code(error)
    found = text.told(error) + (f" [{code}]" if code and code not in text.safe(error) else "")
    return f"Waiting: {found}" if is_waiting else found


def _answers(db_alias: str) -> bool:
    """Return whether the server accepts a new connection and answers a query immediately."""
    connection = connections[db_alias]
    if connection.in_atomic_block:
        return False
    try:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, InterfaceError):
        connection.close_if_unusable_or_obsolete()
        return False
    return True


def hidden_commit(before: Claim, after: Claim, batch: Batch | None) -> str:
    """Return the error message if something has committed a batch that did not end; otherwise an empty string.

    The first statement of such a batch has raised the fence by one, and its last one, which moves the cursor, was not
    executed. A split of the shard raises the fence by two. The checkpoint of a failed batch counts the failure.
    """
    raised = after.fence - before.fence
    if raised % 2 == 0 or (after.cursor, after.failed) != (before.cursor, before.failed):
        return ""
    rows = "Its changes"
    if before.is_retry:
        rows = "The failed objects of the retry"
    elif batch is not None and batch.last is not None:
        begin = "the first one" if before.after is None else f"the one after key {_key(before.after)}"
        rows = f"The rows from {begin} up to key {_key(batch.last)}"
    return (
        "A statement of the operation committed the batch's transaction before the end of the batch: a COMMIT, or a "
        f"change of the schema, perhaps within a procedure. {rows} may be complete, incomplete or missing. "
        f"Check and correct them before you retry, because a retry processes them again. {ATOMIC_FALSE_ADVICE}"
    )


def _key(key: list[Any]) -> str:
    return ", ".join(map(text.safe_repr, key))


class BatchRunner(Protocol):
    """A runner of the batches of one job."""

    is_atomic: bool

    @property
    def batch(self) -> Batch | None:
        """The last batch that was fetched."""

    def run(self, claim: Claim) -> Outcome:
        """Run the next batch."""


def run_with_retries(runner: BatchRunner, claim: Claim, pace: AdaptiveBatchSize, idle_limit: dt.timedelta) -> Outcome:
    """Run a batch, and try again with fewer rows and growing pauses after errors that may pass."""
    troubles: list[Trouble] = []
    stays = sat_idle = 0
    began = time.monotonic()
    for attempt in range(TRIES):
        started = time.monotonic()
        try:
            return runner.run(claim)
        except (Stopped, PaceChanged):
            return Outcome(end=BatchEnd.STOPPED, claim=claim)
        except NotNow as raised:
            return _put_off(runner, claim, raised)
        except (
            LostShard,
            ConcurrentInsert,
            RolledBack,
            CursorStays,
            TimedOut,
            DatabaseError,
            InterfaceError,
        ) as raised:
            trouble, error = trouble_of(claim.job.db_alias, raised), raised
        if isinstance(error, (DatabaseError, InterfaceError)):
            sat_idle += time.monotonic() - started >= idle_limit.total_seconds()
        stays += isinstance(error, CursorStays)
        troubles.append(trouble)
        if not isinstance(error, (LostShard, ConcurrentInsert)):
            logger.warning("A batch of %s was refused (%s); trying again.", claim.job.key, _line(trouble))
            if not isinstance(error, CursorStays):
                pace.halve()
        if isinstance(trouble.error, (DatabaseError, InterfaceError)):
            _back_off(claim, attempt)
        # The commit may have succeeded although its response was lost.
        again = _read_again(claim)
        if again is None:
            is_done = shards.shard_state(claim.job).is_done
            return Outcome(end=BatchEnd.DONE if is_done else BatchEnd.LOST, claim=claim)
        if runner.is_atomic and (advice := hidden_commit(claim, again, runner.batch)):
            _renew_connection(claim)
            return fail_batch(again, DDLInBatch(advice))
        claim = again
        if sat_idle == MAX_SAT_IDLE:
            return fail_batch(claim, IdleLimitExceeded(_idle_advice(idle_limit)))
        if stays == MAX_STAYS:
            return fail_batch(claim, trouble.error)
        is_noted = len(troubles) > UNNOTED_TRIES or time.monotonic() - began > UNNOTED_TIME
        if is_noted and attempt + 1 < TRIES and not isinstance(trouble.error, LostShard):
            claim, _ = _noted(claim, trouble, pace, counts=False)
    if isinstance(trouble.error, LostShard):  # the shard is ours, but a throttle requested a wait
        return Outcome(end=BatchEnd.BUSY, claim=claim)
    counts = not any(each.waits for each in troubles)
    claim, stall = _noted(claim, trouble, pace, counts=counts)
    if counts and stall.tries >= settings.MAX_STALLED_TRIES:
        return dataclasses.replace(fail_batch(claim, trouble.error), error=_given_up(claim, trouble, stall))
    return Outcome(end=BatchEnd.BUSY, claim=dataclasses.replace(claim, batch_size=pace.size))


def _put_off(runner: BatchRunner, claim: Claim, raised: NotNow) -> Outcome:
    """Keep all workers from the shard for the delay that the operation asked for. It counts as no try."""
    again = _read_again(claim)
    if again is None:
        return Outcome(end=BatchEnd.LOST, claim=claim)
    if runner.is_atomic and (advice := hidden_commit(claim, again, runner.batch)):
        _renew_connection(claim)
        return fail_batch(again, DDLInBatch(advice))
    delay = delay_of(raised)
    if not waits.keep(again, delay, f"{waits.OF_OPERATION}{text.line(raised)}"[:MAX_REASON]):
        return Outcome(end=BatchEnd.LOST, claim=again)
    return Outcome(end=BatchEnd.NOT_NOW, claim=again, wait=delay)


def delay_of(raised: NotNow) -> dt.timedelta:
    """Return how long to wait after `NotNow`."""
    default: dt.timedelta = settings.LEASE / 4
    return default if raised.delay is None else min(raised.delay, LONGEST)


def _line(trouble: Trouble) -> str:
    return line_of(trouble.error, is_waiting=trouble.waits)


def _noted(claim: Claim, trouble: Trouble, pace: AdaptiveBatchSize, *, counts: bool) -> tuple[Claim, Stall]:
    """Record the trouble in the shard's row. Do nothing while the database does not answer."""
    with contextlib.suppress(DatabaseError, InterfaceError):
        stall = failures.count_shard_stall(claim, _line(trouble), counts=counts, batch_size=pace.size)
        return dataclasses.replace(claim, is_stalled=True), stall
    return claim, Stall()


def _given_up(claim: Claim, trouble: Trouble, stall: Stall) -> str:
    rounds = text.counted(stall.tries, "round")
    since = f" since {stall.since:%Y-%m-%d %H:%M:%S}" if stall.since else ""
    return (
        f"Shard {claim.job.shard} has made no progress{since}, in {rounds} of {TRIES} tries at its cursor "
        f"{claim.after!r}. The last error: {_line(trouble)}"
    )


def _idle_advice(idle_limit: dt.timedelta) -> str:
    return (
        f"The operation left its connection idle for longer than {idle_limit}, and the server ended the batch's "
        "transaction. Set a longer idle_limit on the migration, make batch_size smaller, or set atomic = False."
    )


def _renew_connection(claim: Claim) -> None:
    """Close the connection: the operation may have changed its session in unknown ways."""
    connection = connections[claim.job.db_alias]
    if not connection.in_atomic_block:
        connection.close()


def _back_off(claim: Claim, attempt: int) -> None:
    connections[claim.job.db_alias].close_if_unusable_or_obsolete()
    time.sleep(random.uniform(0.5, 1) * min(0.05 * 2**attempt, MAX_BACK_OFF))


def _read_again(claim: Claim) -> Claim | None:
    try:
        return shards.read_again(claim)
    except (DatabaseError, InterfaceError) as error:
        if not is_transient(error):
            raise
        connections[claim.job.db_alias].close_if_unusable_or_obsolete()
        return claim
