"""The search for the rows that make a set of rows fail, with O(log n) calls for each of them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class _Part:
    """The rows from `start` up to, but without, `stop`."""

    start: int
    stop: int
    is_first_half: bool = False
    is_suspect: bool = False
    """Whether the part probably fails, because it is the rest of a failed part, of which the first half passed.

    It is split without a call for the whole part.
    """

    @property
    def size(self) -> int:
        return self.stop - self.start


class Bisection:
    """The parts of a failed set of rows that are still to try, in the order of the rows.

    Take a part with `next_part`, try it, and report the result with `passed` or `failed`. Every row is in one part that
    has passed, or is a part by itself, whatever fails: a suspicion only saves a call.
    """

    def __init__(self, count: int) -> None:
        self._parts = [_Part(0, count, is_suspect=True)] if count else []
        """The parts, the next one last."""

    def next_part(self) -> tuple[int, int] | None:
        """Return the bounds of the next part, or None if no part is left."""
        while self._parts and self._parts[-1].is_suspect and self._parts[-1].size > 1:
            self._split(self._parts.pop())
        return (self._parts[-1].start, self._parts[-1].stop) if self._parts else None

    def passed(self) -> None:
        """Record that the part did not fail."""
        part = self._parts.pop()
        if part.is_first_half:
            self._parts[-1].is_suspect = True  # the second half, which is always the next part

    def failed(self) -> None:
        """Record that the part failed. It is split, unless it is a single row."""
        part = self._parts.pop()
        if part.size > 1:
            self._split(part)

    def _split(self, part: _Part) -> None:
        middle = (part.start + part.stop) // 2
        self._parts += [_Part(middle, part.stop), _Part(part.start, middle, is_first_half=True)]
