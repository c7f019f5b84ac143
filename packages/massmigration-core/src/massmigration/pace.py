"""The pace of a migration: limits that an operator sets while it runs. The record stores it as JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any

from massmigration.conf import LEVELS
from massmigration.exceptions import BadPace
from massmigration.text import clean, duration, number

SHORTEST_BATCH = 0.01
LONGEST_BATCH = 600.0
"""The limits of a batch's target duration, in seconds."""

FEWEST_ROWS_PER_SECOND = 0.01
MOST = 2**31 - 1
"""The maximum of counts, which every database stores."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What an operator has set for one migration. None: as the migration's file and the settings say."""

    batch_duration: dt.timedelta | None = None
    """The target duration of a batch."""

    max_batch_size: int | None = None
    """The maximum number of rows in a batch."""

    max_rows_per_second: float | None = None
    """The maximum number of rows per second, for all workers together."""

    max_workers: int | None = None
    """The maximum number of shards that have a worker at the same time."""

    window: tuple[dt.time, dt.time] | None = None
    """The only time of the day at which batches start, in the time zone of the settings: its start and its end."""

    throttles: bool = True
    """Whether the throttles of the migration and of the settings are called."""

    level: str | None = None
    """`gentle`, `steady` or `full`: how much the migration gives way to the site."""

    steered_workers: int | None = None
    """The maximum number of workers that adaptive pace has chosen; None: any number."""

    stop_at_rows: int | None = None
    """The number of processed rows at which the migration pauses by itself."""

    stop_at: dt.datetime | None = None
    """The time, by the database's clock, at which the migration pauses by itself."""

    def as_json(self) -> dict[str, Any]:
        """Return the value for the record: only what differs from the default."""
        return {
            field.name: _WRITERS.get(field.name, _same)(value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Pace:
        """Return the pace that a record stores. Names that only a later version knows are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        found = {name: value for name, value in (stored or {}).items() if name in known}
        return cls(**{name: _READERS.get(name, _same)(value) for name, value in found.items()})

    def with_changes(self, changes: Mapping[str, Any]) -> Pace:
        """Return the pace with these values. Raise `BadPace` for a value that is not allowed.

        A new level begins without the limit of workers that adaptive pace has chosen under the old one.
        """
        found = {name: checked(name, value) for name, value in changes.items()}
        if "level" in found:
            found["steered_workers"] = None
        return dataclasses.replace(self, **found)

    def without_stop(self) -> Pace:
        """Return the pace without the stop that was requested for a part of the run."""
        return dataclasses.replace(self, stop_at_rows=None, stop_at=None)

    def limit_of_workers(self, at_most: int | None = None) -> int | None:
        """Return the smallest limit of workers, also that of the level, `at_most`; None: there is none."""
        limits = [limit for limit in (self.max_workers, self.steered_workers, at_most) if limit is not None]
        return min(limits, default=None)

    @property
    def stops(self) -> bool:
        """Whether a stop was requested for a part of the run."""
        return self.stop_at_rows is not None or self.stop_at is not None

    def lines(self) -> dict[str, str]:
        """Return what differs from the default in words, by name."""
        return {name: shown(name, getattr(self, name)) for name in self.as_json()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.lines().items())


NO_PACE = Pace()
"""The pace of a migration for which nothing is set."""

SETTABLE = (
    *("batch_duration", "max_batch_size", "max_rows_per_second", "max_workers"),
    *("window", "throttles", "level"),
)
"""The names that an operator sets. The others belong to a requested stop and to adaptive pace."""


def difference(old: Pace, new: Pace) -> str:
    """Return the changes in words, for the history."""
    names = [field.name for field in dataclasses.fields(Pace)]
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return "; ".join(f"{name}: {shown(name, was)} -> {shown(name, now)}" for name, was, now in pairs if was != now)


def shown(name: str, value: Any) -> str:
    """Return a value in words."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
        return f"{seconds:g} s" if seconds < 60 else duration(seconds)
    if isinstance(value, tuple):
        return "-".join(f"{each:%H:%M}" for each in value)
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, float) and value != int(value):
        return f"{value:g}"
    return str(value) if isinstance(value, str) else number(value)


def checked(name: str, value: Any) -> Any:
    """Return a value as `Pace` keeps it; texts are parsed. Raise `BadPace` for any other value."""
    if name not in SETTABLE:
        raise BadPace(f"Found the pace {name!r}; allowed: {', '.join(SETTABLE)}.")
    if name == "throttles" and value is None:
        return True
    if value is None:
        return None
    found = _PARSERS[name](value)
    if found is None:
        given = clean(value, 50) if isinstance(value, str) else repr(value)[:50]
        raise BadPace(f"Found {given!r} for {name}; allowed: {_ALLOWED[name]}. Nothing was changed.")
    return found


_ALLOWED = {
    "batch_duration": f"seconds from {SHORTEST_BATCH} to {LONGEST_BATCH:g}",
    "max_batch_size": "a number of rows of at least 1",
    "max_rows_per_second": f"a number of at least {FEWEST_ROWS_PER_SECOND}",
    "max_workers": "a number of at least 1; to stop all workers, pause the migration",
    "window": "two different times of the day, such as 22:00-06:00",
    "throttles": "on or off",
    "level": f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}",
}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _count(value: Any) -> int | None:
    found = _number(value)
    return int(found) if found is not None and found == int(found) and 1 <= found <= MOST else None


def _seconds(value: Any) -> dt.timedelta | None:
    found = value.total_seconds() if isinstance(value, dt.timedelta) else _number(value)
    is_allowed = found is not None and SHORTEST_BATCH <= found <= LONGEST_BATCH
    return dt.timedelta(seconds=found) if found is not None and is_allowed else None


def _rate(value: Any) -> float | None:
    found = _number(value)
    return found if found is not None and FEWEST_ROWS_PER_SECOND <= found <= MOST else None


def _window(value: Any) -> tuple[dt.time, dt.time] | None:
    parts = value.split("-") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 2:
        return None
    try:
        start, end = (each if isinstance(each, dt.time) else dt.time.fromisoformat(each.strip()) for each in parts)
    except (ValueError, AttributeError):
        return None
    is_plain = start.tzinfo is None and end.tzinfo is None
    return (start, end) if start != end and is_plain else None


def _switch(value: Any) -> bool | None:
    return value if isinstance(value, bool) else {"on": True, "off": False}.get(str(value))


def _level(value: Any) -> str | None:
    return value if value in LEVELS else None


def _same(value: Any) -> Any:
    return value


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "batch_duration": _seconds,
    "max_batch_size": _count,
    "max_rows_per_second": _rate,
    "max_workers": _count,
    "window": _window,
    "throttles": _switch,
    "level": _level,
}
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "batch_duration": lambda value: value.total_seconds(),
    "window": lambda value: "-".join(f"{each:%H:%M:%S}" for each in value),
    "stop_at": lambda value: value.isoformat(),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "batch_duration": lambda value: dt.timedelta(seconds=value),
    "window": _window,
    "stop_at": dt.datetime.fromisoformat,
}
