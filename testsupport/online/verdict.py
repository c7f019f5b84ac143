"""The oracle: a comparison of all rows with what the writers have committed."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from testsupport.online.scene import PARENTS, STEP, LoadedShop, initial
from testsupport.online.writers import UNKNOWN_COLUMN, Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong with the rows after a change, by their keys."""

    missing: list[int]
    wrong: list[int]
    back_to_life: list[int]
    unknown: list[int]
    children: list[str]
    """Children that are missing, unknown, or have another parent or none."""

    errors: collections.Counter[str]
    """The errors of the writers, without the one "unknown column" of each."""

    copied_twice: int
    """Rows that two batches have copied and committed."""

    @property
    def bad_rows(self) -> int:
        return sum(map(len, (self.missing, self.wrong, self.back_to_life, self.unknown, self.children)))


def judge(shop: LoadedShop, rows: int, reports: Sequence[Report]) -> Verdict:
    """Return what is wrong after the cutover."""
    expected: dict[int, Any] = {number * STEP: initial(number * STEP) for number in range(1, rows + 1)}
    for report in reports:
        expected.update(report.rows)
    found = {
        key: tuple(row)
        for key, *row in shop.execute("SELECT id, name, budget, goal_spend, like_count FROM campaign ORDER BY id")
    }
    alive = {key: (*row, 7) for key, row in expected.items() if row is not None}
    return Verdict(
        missing=sorted(alive.keys() - found.keys()),
        wrong=sorted(key for key in alive.keys() & found.keys() if alive[key] != found[key]),
        back_to_life=sorted(key for key in found.keys() - alive.keys() if key in expected),
        unknown=sorted(found.keys() - expected.keys()),
        children=_wrong_children(shop, rows, reports),
        errors=_errors(shop, reports),
        copied_twice=_copied_twice(shop),
    )


def _wrong_children(shop: LoadedShop, rows: int, reports: Sequence[Report]) -> list[str]:
    parents = [number * PARENTS * STEP for number in range(1, rows // PARENTS + 1)]
    expected = [*((parent, "note") for parent in parents)]
    expected += [(parent, text) for report in reports for text, parent in report.notes.items()]
    found = shop.execute(
        "SELECT c.id, n.text FROM shop_note n LEFT JOIN campaign c ON c.id = n.campaign_id "
        "UNION ALL SELECT c.id, 'tag' FROM shop_tag n LEFT JOIN campaign c ON c.id = n.campaign_id"
    )
    expected += [(parent, "tag") for parent in parents]
    one, other = collections.Counter(map(tuple, found)), collections.Counter(expected)
    return [str(pair) for pair in [*(one - other), *(other - one)]]


def _errors(shop: LoadedShop, reports: Sequence[Report]) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for report in reports:
        found += report.errors
        found -= collections.Counter([code for code in report.errors if code in UNKNOWN_COLUMN][:1])
    if shop.db_alias == "mysql":
        # When the cutover alters a foreign key, the server may choose a writer as the victim of a deadlock.
        del found["1213"]
    return found


def _copied_twice(shop: LoadedShop) -> int:
    """Return how many rows are in more than one committed batch, as far as the ends of the batches tell."""
    twice, last = 0, -1
    for low, high, count in shop.execute("SELECT low, high, row_count FROM load_batch ORDER BY low, high"):
        twice += count if low <= last else 0
        last = max(last, high)
    return twice
