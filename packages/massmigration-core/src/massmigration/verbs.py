"""The verbs that operators give to one migration, for every edge that offers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from massmigration import api
from massmigration.recorder import attempts
from massmigration.states import Status, sources_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One of them. What it refuses, its function in `api` refuses."""

    name: str
    call: Callable[..., None]
    """Takes the key and the database alias, and `actor=`."""

    done: str
    """What has been done to the migration afterwards, as in "shop:0001_slugs paused"."""

    description: str
    permission: str
    """`run`, `control` or `forget`: the beginning of the permission of `MigrationRecord` that it needs."""

    sources: frozenset[Status | None]
    """The statuses in which it has a meaning; None: there is no record."""

    needs_file: bool = True
    """Is there nothing to do without the migration's file?"""

    needs_jobs: bool = False
    """Has it a meaning only where jobs run the migration, rather than its own `launch()`?"""

    is_grave: bool = False
    """Does it ask first, because what it does cannot be taken back?"""

    sends: bool = False
    """Does the work go on afterwards?"""

    def suits(self, status: Status | None, *, has_file: bool = True, is_managed: bool = True) -> bool:
        """Whether it can be given to a migration that stands like this. Only its function knows for certain."""
        return status in self.sources and (has_file or not self.needs_file) and (is_managed or not self.needs_jobs)


_ALL = (
    Verb(
        name="launch",
        call=api.launch,
        done="launched",
        description="start one that was never launched",
        permission="run",
        sources=frozenset({None}),
        sends=True,
    ),
    Verb(
        name="pause",
        call=api.pause,
        done="paused",
        description="stop at the end of the batch; resume goes on from there",
        permission="control",
        sources=frozenset(sources_of(Status.PAUSED)),
        needs_file=False,
        needs_jobs=True,
    ),
    Verb(
        name="resume",
        call=api.resume,
        done="resumed",
        description="go on after a pause",
        permission="control",
        sources=frozenset({Status.PAUSED}),
        needs_jobs=True,
        sends=True,
    ),
    Verb(
        name="cancel",
        call=api.cancel,
        done="cancelled",
        description="give up, at the end of the batch; retry goes on from there",
        permission="control",
        sources=frozenset(sources_of(Status.CANCELLED)),
        needs_file=False,
    ),
    Verb(
        name="retry",
        call=api.retry,
        done="retried",
        description="go on where one that failed or was cancelled stopped, failed objects included",
        permission="run",
        sources=frozenset(attempts.RETRIED),
        sends=True,
    ),
    Verb(
        name="restart",
        call=api.restart,
        done="restarted",
        description="begin one that failed or was cancelled again, from its first row",
        permission="run",
        sources=frozenset(attempts.RETRIED),
        is_grave=True,
        sends=True,
    ),
    Verb(
        name="fake",
        call=api.fake,
        done="marked as applied",
        description="mark as applied without running",
        permission="run",
        sources=frozenset(attempts.FAKED | {None}),
        is_grave=True,
    ),
    Verb(
        name="forget",
        call=api.forget,
        done="forgotten",
        description="delete the record, as if it had never been launched; its events stay",
        permission="forget",
        sources=frozenset(attempts.FORGOTTEN),
        needs_file=False,
        is_grave=True,
    ),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _ALL}
"""By name, in the order in which a migration may meet them."""
