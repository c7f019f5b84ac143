"""The command `makeonlinemigration`."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from django.core.management import CommandError

from massmigration import api
from massmigration.management.base import MassMigrationCommand
from massmigration_schema import reports, rewriting


class Command(MassMigrationCommand):
    """`makeonlinemigration app_label name`."""

    help = "Changes the base class in the file of a schema migration to OnlineMigration, if it can be made online."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("app_label")
        parser.add_argument("name", help="the schema migration, or the beginning of its name")
        parser.add_argument("--database", default=api.DEFAULT, help="the database whose table is looked at")
        parser.add_argument("--dry-run", action="store_true", help="write the new source to the output")

    def run_command(self, options: dict[str, Any]) -> None:
        report = reports.plan(options["app_label"], options["name"], options["database"])
        title = f"{report.derivation.app_label}.{report.derivation.name}"
        if not report.derivation.has_model:
            raise CommandError(f"{title} is an OnlineTable already.")
        if report.refusals:
            raise CommandError(f"{title} was not changed.\n{report.to_text()}")
        path = Path(inspect.getfile(type(report.migration)))
        if options["dry_run"]:
            self.write(rewriting.rewritten(path.read_bytes().decode()))
        elif rewriting.rewrite(path):
            self.write(f"Changed {path}. Next: manage.py onlinemigration plan {title.replace('.', ' ')}")
        else:
            self.write(f"{title} is an OnlineMigration already.")
