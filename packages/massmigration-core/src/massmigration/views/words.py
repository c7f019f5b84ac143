"""The words, numbers and durations of the pages, in the language of who looks."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext, pgettext_lazy

from massmigration.progress import Reading
from massmigration.states import Status

CLOSE = 1.15
"""Two estimates that differ by less are one."""

STATES = {
    "stalled": pgettext_lazy("status", "Stalled"),
    "running": pgettext_lazy("status", "Running"),
    "queued": pgettext_lazy("status", "Queued"),
    "paused": pgettext_lazy("status", "Paused"),
    "failed": pgettext_lazy("status", "Failed"),
    "ready": pgettext_lazy("status", "Ready"),
    "blocked": pgettext_lazy("status", "Waits for others"),
    "not_run": pgettext_lazy("status", "Not run"),
    "cancelled": pgettext_lazy("status", "Cancelled"),
    "applied": pgettext_lazy("status", "Applied"),
    "faked": pgettext_lazy("status", "Marked as applied"),
    "broken": pgettext_lazy("status", "File cannot be used"),
    "gone": pgettext_lazy("status", "File is gone"),
}
"""How a migration can stand, in the order in which operators want to know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Badge:
    """A state as text, and as the name of its icon."""

    state: str

    @property
    def text(self) -> Any:
        return STATES[self.state]


def badge(record: Any, *, is_stalled: bool = False) -> Badge:
    """That of a record."""
    if record is None:
        return Badge("not_run")
    if is_stalled:
        return Badge("stalled")
    return Badge("faked" if record.status == Status.APPLIED and record.was_faked else str(record.status))


def badge_of(status: str | None) -> Badge:
    """That of a status; None: never launched."""
    return Badge(status or "not_run")


VERBS = {
    "launch": pgettext_lazy("event", "launch"),
    "plan": pgettext_lazy("event", "plan"),
    "pause": pgettext_lazy("event", "pause"),
    "resume": pgettext_lazy("event", "resume"),
    "cancel": pgettext_lazy("event", "cancel"),
    "retry": pgettext_lazy("event", "retry"),
    "restart": pgettext_lazy("event", "restart"),
    "fake": pgettext_lazy("event", "mark as applied"),
    "forget": pgettext_lazy("event", "forget"),
    "resolve": pgettext_lazy("event", "resolve"),
    "replay": pgettext_lazy("event", "replay"),
    "finish stage": pgettext_lazy("event", "finish stage"),
    "another pass": pgettext_lazy("event", "another pass"),
    "applied": pgettext_lazy("event", "applied"),
    "failed": pgettext_lazy("event", "failed"),
    "not sent": pgettext_lazy("event", "not sent"),
    "not launched": pgettext_lazy("event", "not launched"),
    "code changed": pgettext_lazy("event", "code changed"),
    "convert": pgettext_lazy("event", "convert"),
    "run on fresh": pgettext_lazy("event", "run on fresh"),
}
"""What events tell of. A backend's own verbs are shown as they are."""


def number(value: float) -> str:
    """Whole, with its thousands apart."""
    return number_format(round(value), 0, use_l10n=True, force_grouping=True)


def rate(value: float | None) -> str:
    """Objects a second; empty when that is not known."""
    if value is None:
        return ""
    figure = number(value) if value >= 10 else number_format(value, 1 if value >= 1 else 2, use_l10n=True)
    return gettext("%(number)s rows/s") % {"number": figure}


def duration(seconds: float) -> str:
    """In the two units that matter."""
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
    """An estimate has no more seconds than it can be trusted for."""
    if seconds < 600:
        return duration(seconds if seconds < 60 else round(seconds / 10) * 10)
    return duration(seconds) if seconds >= 3600 else gettext("%(min)s min") % {"min": round(seconds / 60)}


def elapsed(value: dt.timedelta | None) -> str:
    """A duration; empty when there is none."""
    return duration(value.total_seconds()) if value is not None else ""


def left(reading: Reading, recent: float | None) -> str:
    """The time left as a range, from the rate now and the overall one; empty when it cannot be said."""
    if reading.status is not Status.RUNNING or reading.total is None or reading.done > reading.total:
        return ""
    estimates = sorted((reading.total - reading.done) / each for each in (recent, reading.rate) if each)
    if not estimates:
        return ""
    if estimates[-1] <= estimates[0] * CLOSE or estimates[-1] - estimates[0] < 3:
        return gettext("about %(time)s") % {"time": _coarse(estimates[-1])}
    return gettext("%(least)s to %(most)s") % {"least": _coarse(estimates[0]), "most": _coarse(estimates[-1])}


def percent(reading: Reading) -> str:
    """How much of the stage is done; empty when that cannot be said."""
    share = reading.share
    if share is None:
        return ""
    return gettext("%(share)s%%") % {"share": number_format(int(share * 1000) / 10, 1, use_l10n=True)}


def standing(reading: Reading) -> str:
    """What there is to say of the present stage."""
    if reading.is_once:
        text = gettext("One operation, done once.")
    elif reading.is_managed and not reading.is_planned:
        is_queued = reading.status is Status.QUEUED
        text = gettext("Waits for a worker to plan it.") if is_queued else gettext("Not planned yet.")
    else:
        text = rows(reading)
    return (
        gettext("Stage %(number)s: %(text)s") % {"number": reading.stage + 1, "text": text} if reading.stage else text
    )


def rows(reading: Reading) -> str:
    """How many objects of how many."""
    if reading.is_once or not reading.is_planned:
        return ""
    if reading.total is None:
        if not reading.done:
            return ""
        return ngettext("%(done)s row", "%(done)s rows", reading.done) % {"done": number(reading.done)}
    found = {"done": number(reading.done), "total": number(reading.total)}
    if reading.is_total_estimated:
        return gettext("%(done)s of about %(total)s rows") % found
    return gettext("%(done)s of %(total)s rows") % found


def failed(count: int) -> str:
    """How many objects have failed."""
    return ngettext("%(count)s failed object", "%(count)s failed objects", count) % {"count": number(count)}


def ago(seconds: float) -> str:
    """How long it has been."""
    return gettext("%(time)s ago") % {"time": duration(seconds)}


def value_of(key: list[Any] | None) -> str:
    """A cursor or a primary key, as short as it can be read."""
    if key is None:
        return ""
    return ", ".join(str(next(iter(part.values())) if isinstance(part, dict) else part) for part in key)
