"""Says when work that should go on does not: a lease has run out, or nobody takes what is left."""

from __future__ import annotations

import datetime as dt
from typing import Any

from massmigration.conf import settings
from massmigration.states import ACTIVE

SOON = dt.timedelta(seconds=5)
"""What is younger is not worth a warning."""


def is_stalled(
    record: Any, *, overdue: int, held: int, beat: dt.datetime | None, due: dt.datetime | None = None
) -> bool:
    """Whether an operator should send it again.

    `record` has the database's time as `now`. Of the shards of its stage that are not done, `held` have a lease and
    `overdue` one that has run out; `beat` is when a worker made the last checkpoint, and `due` until when the last of
    those that nobody has sent again may wait, as throttles have told them to.
    """
    if record.status not in ACTIVE:
        return False
    if overdue or held or not record.is_managed:
        return bool(overdue)
    return waited(record, beat) > settings.LEASE + SOON and (due is None or due + SOON < record.now)


def waited(record: Any, beat: dt.datetime | None) -> dt.timedelta:
    """How long nobody has been at work."""
    since: dt.datetime | None = beat or record.started_at or record.launched_at
    return record.now - since if since else dt.timedelta(0)
