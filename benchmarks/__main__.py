"""A command that prints tables and saves them: `python -m benchmarks [PART ...] [--quick | --full]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.options import SIZES
from benchmarks.outer import measure_all
from benchmarks.parts import PARTS
from benchmarks.servers import DATABASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="quick", dest="size", help="a few minutes, rough")
    size.add_argument("--full", action="store_const", const="full", dest="size", help="for the record")
    parser.add_argument("--database", action="append", choices=DATABASES, help="default: all")
    parser.add_argument("--repeat", type=int, help="repetitions, where a part has them")
    parser.add_argument("--rows", type=int, help="rows that a set-based method, and the engine, change in `speed`")
    parser.add_argument("--output", type=Path, help="a folder for results.json and results.md")
    options = parser.parse_args()
    if unknown := set(options.part) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    sizes = SIZES[options.size or "usual"].repeated(options.repeat).with_rows(options.rows)
    results, text = measure_all(options.part or list(PARTS), options.database or list(DATABASES), sizes)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.output / "results.md").write_text(text)
        print(f"Written to {options.output}.")
    return 1 if results["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
