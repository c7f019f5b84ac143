"""A measurement of how much the peak memory of a process grows with the table."""

from __future__ import annotations

import resource
import sys
from typing import Any

from benchmarks import methods, table
from benchmarks.options import Sizes

TITLE = "Peak memory of the process"
DATABASES = ("postgresql", "mariadb", "mysql", "sqlite")
MEBIBYTE = 2**20
METHODS = {"fields": methods.fields_path, "batch": methods.expression_path}


def measure(sizes: Sizes, rows: str = "", method: str = "") -> dict[str, Any]:
    """Return the peak of this process for a number of rows and a method, or all peaks, in one process each."""
    if rows:
        return {"peak": peak(int(rows), METHODS[method])}
    from benchmarks.outer import in_own_process

    found: dict[str, Any] = {}
    for name in METHODS:
        found[name] = {str(rows): in_own_process("memory", sizes, rows, name).get("peak") for rows in sizes.memory}
    return found


def peak(rows: int, method: methods.Method) -> int:
    """Return the peak memory in bytes after one run over a fresh table."""
    table.rebuild(rows)
    method((0, rows))
    table.check((0, rows))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def render(result: dict[str, Any]) -> list[str]:
    sizes = list(next(iter(result.values())))
    lines = [f"| path | {' | '.join(f'{int(rows):,} rows' for rows in sizes)} | grown by |"]
    lines.append("| --- |" + " --- |" * (len(sizes) + 1))
    for name, peaks in result.items():
        known = [peaks[rows] / MEBIBYTE for rows in sizes if peaks[rows]]
        shown = " | ".join(f"{value:.1f} MiB" for value in known)
        lines.append(f"| {name} | {shown} | {max(known) - known[0]:+.1f} MiB |" if known else f"| {name} | failed |")
    return [*lines, "", "Target: within 20 MiB."]
