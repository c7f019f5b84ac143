"""The sizes of the measurements."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows and repetitions of one run of the benchmarks."""

    name: str
    rows: int
    """Of the table."""

    fast: int
    """Of a slice for a set-based method, or for the engine."""

    mid: int
    """Of a slice for a method that writes batches."""

    slow: int
    """Of a slice for a method that writes rows one by one."""

    operated: int
    """Of the table that the ready-made operations go through."""

    repeat: int
    memory: tuple[int, ...]
    """The sizes of the tables whose peaks are compared."""

    skewed: int
    """Rows of the table with sparse keys."""

    heavy: int
    """Rows for the operation that computes."""

    heavy_repeat: int

    huge: int
    """How many times the table's rows the one has that is only planned."""

    def repeated(self, repeat: int | None) -> Sizes:
        return self if repeat is None else dataclasses.replace(self, repeat=repeat, heavy_repeat=repeat)

    def with_rows(self, fast: int | None) -> Sizes:
        """Return the sizes with so many rows in a slice for a set-based method, and a table with all slices."""
        if fast is None:
            return self
        return dataclasses.replace(self, fast=fast, rows=max(self.rows, 5 * fast + 4 * self.mid + 6 * self.slow))


SIZES = {
    "quick": Sizes(
        name="quick",
        rows=250_000,
        fast=40_000,
        mid=5_000,
        slow=1_500,
        operated=30_000,
        repeat=3,
        memory=(20_000, 200_000),
        skewed=100_000,
        heavy=20_000,
        heavy_repeat=2,
        huge=10,
    ),
    "usual": Sizes(
        name="usual",
        rows=1_000_000,
        fast=150_000,
        mid=20_000,
        slow=5_000,
        operated=100_000,
        repeat=5,
        memory=(100_000, 1_000_000),
        skewed=1_000_000,
        heavy=60_000,
        heavy_repeat=3,
        huge=20,
    ),
    "full": Sizes(
        name="full",
        rows=1_000_000,
        fast=150_000,
        mid=25_000,
        slow=10_000,
        operated=100_000,
        repeat=9,
        memory=(100_000, 1_000_000, 5_000_000),
        skewed=1_000_000,
        heavy=100_000,
        heavy_repeat=5,
        huge=100,
    ),
}
