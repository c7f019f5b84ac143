"""The verbs that operators give to one migration, for every edge that offers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from massmigration import api


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
    """`run` or `control`: the beginning of the permission of `MigrationRecord` that it needs."""

    is_grave: bool = False
    """Does it ask first, because what it does cannot be taken back?"""

    sends: bool = False
    """Does the work go on afterwards?"""


_ALL = (
    Verb(
        name="launch",
        call=api.launch,
        done="launched",
        description="start one that was never launched",
        permission="run",
        sends=True,
    ),
    Verb(
        name="pause",
        call=api.pause,
        done="paused",
        description="stop at the end of the batch; resume goes on from there",
        permission="control",
    ),
    Verb(
        name="resume",
        call=api.resume,
        done="resumed",
        description="go on after a pause",
        permission="control",
        sends=True,
    ),
    Verb(
        name="cancel",
        call=api.cancel,
        done="cancelled",
        description="give up, at the end of the batch; retry goes on from there",
        permission="control",
    ),
    Verb(
        name="retry",
        call=api.retry,
        done="retried",
        description="go on where one that failed or was cancelled stopped, failed objects included",
        permission="run",
        sends=True,
    ),
    Verb(
        name="restart",
        call=api.restart,
        done="restarted",
        description="begin one that failed or was cancelled again, from its first row",
        permission="run",
        is_grave=True,
        sends=True,
    ),
    Verb(
        name="fake",
        call=api.fake,
        done="marked as applied",
        description="mark as applied without running",
        permission="run",
        is_grave=True,
    ),
    Verb(
        name="forget",
        call=api.forget,
        done="forgotten",
        description="delete the record, as if it had never been launched; its events stay",
        permission="run",
        is_grave=True,
    ),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _ALL}
"""By name, in the order in which a migration may meet them."""
