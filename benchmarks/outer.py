"""The measurement of all parts on all databases, each in a separate process. The others continue if one fails."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import json
import os
import platform
import subprocess
import sys
from typing import Any

import django

from benchmarks.options import Sizes
from benchmarks.parts import PARTS
from benchmarks.servers import started
from testsupport.processes import RunFolder, StartError
from testsupport.services import Unavailable

MARK = "RESULT "


def measure_all(parts: list[str], databases: list[str], sizes: Sizes) -> tuple[dict[str, Any], str]:
    """Return the results as JSON and as Markdown, and print the Markdown meanwhile."""
    results: dict[str, Any] = {"machine": machine(), "sizes": dataclasses.asdict(sizes), "errors": []}
    text = Text()
    text.add(f"Measured {results['machine']['at']} on {results['machine']['what']}; size: {sizes.name}.", "")
    run = RunFolder()
    try:
        for database in databases:
            chosen = [part for part in parts if database in module(part).DATABASES]
            if chosen:
                _measure_on(database, chosen, sizes, run, results, text)
    finally:
        run.remove()
    for part in parts:
        if not module(part).DATABASES:
            results[part] = module(part).measure(sizes, results)
            text.add(f"### {module(part).TITLE}", "", *module(part).render(results[part]), "")
    return results, text.whole


def _measure_on(
    database: str, parts: list[str], sizes: Sizes, run: RunFolder, results: dict[str, Any], text: Text
) -> None:
    try:
        with started(database, run):
            for part in parts:
                result = in_own_process(part, sizes)
                if "error" in result:
                    results["errors"].append(f"{part} on {database}: {result['error']}")
                    text.add(f"### {module(part).TITLE}: {database}", "", f"Not measured: {result['error']}", "")
                else:
                    results.setdefault(part, {})[database] = result
                    text.add(f"### {module(part).TITLE}: {database}", "", *module(part).render(result), "")
    except (Unavailable, StartError) as error:
        text.add(f"{database}: not measured. {error}", "")


def in_own_process(*words: object) -> dict[str, Any]:
    """Run `benchmarks.inner` with a part's name and sizes, and return its result, or why there is none."""
    arguments = [json.dumps(dataclasses.asdict(word)) if isinstance(word, Sizes) else str(word) for word in words]
    command = [sys.executable, "-m", "benchmarks.inner", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    return {"error": f"the process ended with code {done.returncode} and no result"}


def module(part: str) -> Any:
    """Return the module of a part. This process measures nothing, and opens no database."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
    django.setup()
    return importlib.import_module(PARTS[part])


def machine() -> dict[str, Any]:
    """Return the description of the machine and its load."""
    load = os.getloadavg()[0]
    now = dt.datetime.now(dt.timezone.utc)
    what = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    return {"at": f"{now:%Y-%m-%d %H:%M} UTC", "what": what, "cores": os.cpu_count(), "load": load}


class Text:
    """Markdown, printed as it comes."""

    def __init__(self) -> None:
        self.whole = ""

    def add(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            self.whole += line + "\n"
