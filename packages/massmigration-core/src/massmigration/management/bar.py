"""Shows how far a migration is: one line, redrawn on a terminal; elsewhere a new one every few seconds."""

from __future__ import annotations

import os
import time
from typing import TextIO

from massmigration.progress import Reading, Speed
from massmigration.states import Status

PLAIN_INTERVAL = 5.0
"""Seconds between two lines where none can be redrawn."""

LIVE_INTERVAL = 0.1
SILENCE = 5.0
"""Seconds without a checkpoint after which the line says what is waited for."""

BAR_WIDTH = 20
FALLBACK_COLUMNS = 80


def number(value: float) -> str:
    """With its thousands apart: `234 908`."""
    return f"{value:,.0f}".replace(",", " ")


def counted(count: int, noun: str) -> str:
    """With its noun: `1 row`, `2 rows`."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def duration(seconds: float) -> str:
    """In the two units that matter: `3 s`, `2 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def render(reading: Reading, speed: Speed, columns: int) -> str:
    """The line, no longer than `columns`."""
    name = reading.key if reading.stage == 0 else f"{reading.key} stage {reading.stage + 1}"
    share = reading.share
    if share is None or reading.is_once:
        text = ", ".join([reading.status.value, *_rows(reading), *_waiting(reading)])
        return f"{name} {text}"[:columns]
    facts = [*_rows(reading), *_speeds(reading, speed), *_waiting(reading)]
    text = f"{int(share * 1000) / 10:.1f}% {', '.join(facts)}"
    line = f"{name} [{'#' * int(share * BAR_WIDTH):.<{BAR_WIDTH}}] {text}"
    return line if len(line) <= columns else f"{name} {text}"[:columns]


def _rows(reading: Reading) -> list[str]:
    if reading.is_once or not reading.is_planned:
        return []
    about = "~" if reading.is_total_estimated else ""
    total = "" if reading.total is None else f"/{about}{number(reading.total)}"
    return [f"{number(reading.done)}{total} rows", *([f"{number(reading.failed)} failed"] if reading.failed else [])]


def _speeds(reading: Reading, speed: Speed) -> list[str]:
    if not reading.is_active:
        return []
    left = speed.seconds_left(reading)
    facts = [] if speed.recent is None else [f"{number(speed.recent)} rows/s"]
    return facts if left is None else [*facts, f"{duration(left)} left"]


def _waiting(reading: Reading) -> list[str]:
    """A silent worker is dead or has a long batch; which, shows when its lease ends."""
    if reading.status is not Status.RUNNING or reading.is_once or reading.silence is None or reading.lease_left is None:
        return []
    silence = reading.silence.total_seconds()
    if silence < SILENCE:
        return []
    left = duration(reading.lease_left.total_seconds())
    return [f"waiting for workers that have been silent for {duration(silence)}; the first lease ends in {left}"]


class Bar:
    """Writes the line to a stream, at most as often as eyes want it."""

    def __init__(self, stream: TextIO, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._is_quiet = is_quiet
        self._is_live = stream.isatty()
        self._interval = LIVE_INTERVAL if self._is_live else PLAIN_INTERVAL
        self._speed = Speed()
        self._drawn = 0
        self._next = 0.0

    def begin(self) -> None:
        """Another migration is shown from now on. Where lines are not redrawn, the short ones need none."""
        self._speed = Speed()
        self._next = 0.0 if self._is_live else time.monotonic() + self._interval

    def show(self, reading: Reading, *, is_last: bool = False) -> None:
        """Draw the reading if it is time, the last one of a migration in any case on a terminal."""
        now = time.monotonic()
        self._speed.add(reading, now)
        if self._is_quiet or (now < self._next and not (is_last and self._is_live)):
            return
        self._next = now + self._interval
        if not self._is_live:
            self._write(render(reading, self._speed, 1000) + "\n")
            return
        # Of something done once, the result says all there is to say.
        line = "" if is_last and reading.is_once else render(reading, self._speed, self._columns() - 1)
        self._write("\r" + line.ljust(self._drawn))
        self._drawn = len(line)
        if not line:
            self._write("\r")
        elif is_last:
            self._end_line()

    def note(self, text: str) -> None:
        """Write a line of its own."""
        if not self._is_quiet:
            self._end_line()
            self._write(f"{text}\n")

    def _end_line(self) -> None:
        if self._drawn:
            self._drawn = 0
            self._write("\n")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or FALLBACK_COLUMNS
        except (OSError, ValueError):  # no terminal, or a stream without a file
            return FALLBACK_COLUMNS

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
