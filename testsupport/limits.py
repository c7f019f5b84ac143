"""A rate limit on real workers, measured by the database's own times."""

from __future__ import annotations

import dataclasses
import random
from bisect import bisect_left
from collections.abc import Callable

from testsupport import oracle
from testsupport.testapp.models import Item
from testsupport.worker_processes import wait_until

KEY = "testapp:0016_limited"
LIMIT = 2000
"""Rows a second."""

ROWS = 60_000
TOLERANCE = 1.1
PATIENCE = 300.0
STEPS = 4
"""How often a run is disturbed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates at which rows were processed, as multiples of the limit."""

    worst_second: float
    worst_ten: float
    seconds: float
    """From the first row to the last."""

    @classmethod
    def of(cls, db_alias: str) -> Rates:
        found = Item.objects.using(db_alias).order_by("touched_at").values_list("touched_at", flat=True)
        times = [at.timestamp() for at in found]
        return cls(
            worst_second=_most_within(1, times) / LIMIT,
            worst_ten=_most_within(10, times) / (10 * LIMIT),
            seconds=times[-1] - times[0],
        )

    def __str__(self) -> str:
        return (
            f"{self.worst_ten:.3f} times the limit in the worst ten seconds, {self.worst_second:.2f} in the worst one; "
            f"{self.seconds:.1f} s, where the limit allows {ROWS / LIMIT:.1f} s"
        )


def disturb(
    rng: random.Random, *, done: Callable[[], int], kill: Callable[[], object], send: Callable[[], object]
) -> None:
    """Repeatedly send the remaining jobs again and kill workers, until the run is nearly over."""
    for step in range(1, STEPS + 1):
        wait_until(lambda step=step: done() >= ROWS * step / (STEPS + 1), timeout=PATIENCE)
        for _ in range(rng.randint(1, 3)):
            send()
        kill()


def assert_kept(db_alias: str) -> Rates:
    """Assert that every row was done once, and that no ten seconds exceeded the limit."""
    rates = Rates.of(db_alias)
    print(f"{db_alias}: {rates}.")  # noqa: T201
    assert oracle.counts(db_alias) == [1]
    assert oracle.tally(db_alias)[0] == ROWS
    assert rates.worst_ten <= TOLERANCE, str(rates)
    return rates


def _most_within(seconds: float, times: list[float]) -> int:
    return max(bisect_left(times, start + seconds) - index for index, start in enumerate(times))
