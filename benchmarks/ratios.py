"""Medians and spreads."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Return the median, the least and the greatest."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "greatest": max(values),
        "count": len(values),
    }


def shown(found: dict[str, float | int], unit: str = "x") -> str:
    return f"{found['median']:.2f}{unit} | {found['least']:.2f}–{found['greatest']:.2f}"
