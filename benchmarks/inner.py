"""A command that measures one part in this process: `python -m benchmarks.inner PART SIZES [...]`."""

from __future__ import annotations

import json
import sys

import django

from benchmarks.options import Sizes
from benchmarks.outer import MARK, module


def main(part: str, sizes: str, *more: str) -> None:
    django.setup()
    from benchmarks import database

    database.create()
    given = json.loads(sizes)
    given["memory"] = tuple(given["memory"])
    print(MARK + json.dumps(module(part).measure(Sizes(**given), *more)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
