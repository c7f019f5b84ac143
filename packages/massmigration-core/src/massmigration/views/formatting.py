"""Numbers, durations and statuses as text, in the language of the request."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format, number_format, time_format
from django.utils.translation import gettext, ngettext, pgettext_lazy

from massmigration.conf import settings
from massmigration.progress import DAY, WAITING, Progress
from massmigration.states import Status

CLOSE = 1.15
"""Two estimates whose ratio is smaller are shown as one."""

STATES = {
    "stuck": pgettext_lazy("status", "Stuck"),
    "waiting": pgettext_lazy("status", "Waiting"),
    "running": pgettext_lazy("status", "Running"),
    "queued": pgettext_lazy("status", "Queued"),
    "paused": pgettext_lazy("status", "Paused"),
    "failed": pgettext_lazy("status", "Failed"),
    "ready": pgettext_lazy("status", "Ready"),
    "blocked": pgettext_lazy("status", "Blocked"),
    "not_run": pgettext_lazy("status", "Not run"),
    "cancelled": pgettext_lazy("status", "Cancelled"),
    "applied": pgettext_lazy("status", "Applied"),
    "faked": pgettext_lazy("status", "Marked as applied"),
    "broken": pgettext_lazy("status", "File cannot be used"),
    "gone": pgettext_lazy("status", "File is missing"),
}
"""The states of a migration on the pages, most urgent first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Badge:
    """A state, as text and as the name of an icon."""

    state: str
    """A key of `STATES`."""

    @property
    def text(self) -> Any:
        """The translated name of the state."""
        return STATES[self.state]


def badge(record: Any, *, is_stuck: bool = False) -> Badge:
    """Return the badge of a record, or of None for a migration that was not run."""
    if record is None:
        return Badge("not_run")
    if is_stuck:
        return Badge("stuck")
    return Badge("faked" if record.status == Status.APPLIED and record.was_faked else str(record.status))


def badge_of(status: str | None) -> Badge:
    """Return the badge of a status, or of None for a migration that was not run."""
    return Badge(status or "not_run")


EVENT_NAMES = {
    "launch": pgettext_lazy("event", "launch"),
    "plan": pgettext_lazy("event", "plan"),
    "wait": pgettext_lazy("event", "wait"),
    "proceed": pgettext_lazy("event", "proceed"),
    "note": pgettext_lazy("event", "note"),
    "pause": pgettext_lazy("event", "pause"),
    "resume": pgettext_lazy("event", "resume"),
    "cancel": pgettext_lazy("event", "cancel"),
    "retry": pgettext_lazy("event", "retry"),
    "restart": pgettext_lazy("event", "restart"),
    "fake": pgettext_lazy("event", "mark as applied"),
    "forget": pgettext_lazy("event", "forget"),
    "resolve": pgettext_lazy("event", "resolve"),
    "pace": pgettext_lazy("event", "pace"),
    "stop-after": pgettext_lazy("event", "stop after"),
    "pause-all": pgettext_lazy("event", "pause everything"),
    "resume-all": pgettext_lazy("event", "resume everything"),
    "replay": pgettext_lazy("event", "replay"),
    "finish stage": pgettext_lazy("event", "finish stage"),
    "another pass": pgettext_lazy("event", "another pass"),
    "applied": pgettext_lazy("event", "applied"),
    "failed": pgettext_lazy("event", "failed"),
    "not sent": pgettext_lazy("event", "not sent"),
    "sent": pgettext_lazy("event", "sent"),
    "on_commit failed": pgettext_lazy("event", "on_commit failed"),
    "not launched": pgettext_lazy("event", "not launched"),
    "code changed": pgettext_lazy("event", "code changed"),
    "convert": pgettext_lazy("event", "convert"),
    "run on fresh": pgettext_lazy("event", "run on fresh"),
}
"""Translated names of events by `Event.verb`. The names that a backend uses for its own actions are not translated."""


def number(value: float) -> str:
    """Return a whole number with thousand separators."""
    return number_format(round(value), 0, use_l10n=True, force_grouping=True)


def rate(value: float | None) -> str:
    """Return a rate in rows per second; empty if it is not known."""
    if value is None:
        return ""
    figure = number(value) if value >= 10 else number_format(value, 1 if value >= 1 else 2, use_l10n=True)
    return gettext("%(number)s rows/s") % {"number": figure}


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if 0 < seconds < 1:
        return gettext("less than 1 s")
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600, whole // 60
    if whole < 60:
        return gettext("%(s)s s") % {"s": whole}
    if minutes < 60:
        return gettext("%(min)s min %(s)s s") % {"min": minutes, "s": whole % 60}
    if hours < 48:
        return gettext("%(h)s h %(min)s min") % {"h": hours, "min": minutes % 60}
    return gettext("%(d)s days %(h)s h") % {"d": number(days), "h": hours % 24}


def _coarse(seconds: float) -> str:
    """Return an estimated duration, rounded because it is not exact to the second."""
    if seconds < 600:
        return duration(seconds if seconds < 60 else round(seconds / 10) * 10)
    return duration(seconds) if seconds >= 3600 else gettext("%(min)s min") % {"min": round(seconds / 60)}


def elapsed(value: dt.timedelta | None) -> str:
    """Return a duration; empty if there is none."""
    return duration(value.total_seconds()) if value is not None else ""


def stall(progress: Progress) -> str:
    """Return how long the migration has been failing, without the error, which not every user may see."""
    if progress.stalled_for is None:
        return ""
    context: dict[str, str | int] = {"time": elapsed(progress.stalled_for)}
    if progress.stalled_error.startswith(WAITING):
        return gettext("Waiting for the database for %(time)s. This needs no action.") % context
    context |= {"tries": progress.stalled_tries, "most": settings.MAX_STALLED_TRIES}
    return gettext("No progress for %(time)s, in %(tries)s of %(most)s rounds.") % context


def throttle(progress: Progress) -> str:
    """Return which throttle keeps workers from all shards, and until when; empty if none does."""
    at = progress.throttle_ends_at
    if at is None:
        return ""
    is_today = progress.throttle_left is not None and progress.throttle_left < DAY
    when = time_format(at, "H:i:s") if is_today else date_format(at, "SHORT_DATETIME_FORMAT")
    return gettext("Throttled until %(time)s by %(throttle)s.") % {"time": when, "throttle": progress.throttled_by}


def left(progress: Progress, recent: float | None) -> str:
    """Return the time left as a range between the current and the overall rate; empty if it is not known."""
    if progress.status is not Status.RUNNING or progress.total is None or progress.done > progress.total:
        return ""
    estimates = sorted((progress.total - progress.done) / each for each in (recent, progress.rate) if each)
    if not estimates:
        return ""
    if estimates[-1] <= estimates[0] * CLOSE or estimates[-1] - estimates[0] < 3:
        return gettext("about %(time)s") % {"time": _coarse(estimates[-1])}
    return gettext("%(least)s to %(most)s") % {"least": _coarse(estimates[0]), "most": _coarse(estimates[-1])}


def percent(progress: Progress) -> str:
    """Return the completed part of the stage; empty if it is not known."""
    if progress.fraction is None:
        return ""
    return gettext("%(share)s%%") % {"share": number_format(int(progress.fraction * 1000) / 10, 1, use_l10n=True)}


def stage_text(progress: Progress) -> str:
    """Return the state of the current stage as a sentence or as a number of rows."""
    if progress.is_once:
        text = gettext("One operation, done once.")
    elif progress.status is Status.WAITING:
        text = gettext("Waiting for an operator.")
    elif progress.is_managed and not progress.is_planned:
        is_queued = progress.status is Status.QUEUED
        text = gettext("Waiting for a worker to plan it.") if is_queued else gettext("Not planned yet.")
    else:
        text = rows(progress)
    return (
        gettext("Stage %(number)s: %(text)s") % {"number": progress.stage + 1, "text": text} if progress.stage else text
    )


def rows(progress: Progress) -> str:
    """Return the processed and the total rows of the stage; empty if there are none to count."""
    if progress.is_once or not progress.is_planned:
        return ""
    if progress.total is None:
        if not progress.done:
            return ""
        return ngettext("%(done)s row", "%(done)s rows", progress.done) % {"done": number(progress.done)}
    found = {"done": number(progress.done), "total": number(progress.total)}
    if progress.is_total_estimated:
        return ngettext("%(done)s of about %(total)s row", "%(done)s of about %(total)s rows", progress.total) % found
    return ngettext("%(done)s of %(total)s row", "%(done)s of %(total)s rows", progress.total) % found


def changed(progress: Progress) -> str:
    """Return how many rows were changed; empty if that is not known, or if it is all of them."""
    if progress.changed is None or progress.changed == progress.processed:
        return ""
    found = {"processed": number(progress.processed), "changed": number(progress.changed)}
    return (
        ngettext(
            "%(processed)s row processed, %(changed)s changed",
            "%(processed)s rows processed, %(changed)s changed",
            progress.processed,
        )
        % found
    )


def skipped(count: int) -> str:
    """Return a number of skipped rows; empty for none."""
    return (
        ngettext("%(count)s row skipped", "%(count)s rows skipped", count) % {"count": number(count)} if count else ""
    )


def failed(count: int) -> str:
    """Return a number of failed objects."""
    return ngettext("%(count)s failed object", "%(count)s failed objects", count) % {"count": number(count)}


def ago(seconds: float) -> str:
    """Return how long ago something was."""
    return gettext("%(time)s ago") % {"time": duration(seconds)}


def value(given: Any) -> str:
    """Return the value of a migration's own detail as text."""
    if given is None:
        return gettext("Not known")
    if isinstance(given, dt.timedelta):
        return duration(given.total_seconds())
    if isinstance(given, dt.datetime):
        return date_format(timezone.localtime(given), "DATETIME_FORMAT")
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return str(given)
    return number(given) if isinstance(given, int) else number_format(given, 2, use_l10n=True)


def value_of(key: list[Any] | None) -> str:
    """Return a cursor or a primary key as short text."""
    if key is None:
        return ""
    return ", ".join(str(next(iter(part.values())) if isinstance(part, dict) else part) for part in key)
