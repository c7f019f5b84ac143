"""The command `online_migration` of Django Online Migration."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.management.base import MassMigrationCommand
from massmigration_schema import reports

FOLDER = "online_migrations"
VERBS = ("run", "restart", "rename")


class Command(MassMigrationCommand):
    """`online_migration app_label run|restart|rename name`."""

    help = "Runs a migration of Django Online Migration, or an online change, by the verbs of that package."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("app_label")
        parser.add_argument("verb", choices=VERBS)
        parser.add_argument("name", help=f"a file in the folder {FOLDER} of the app, or an online change")
        parser.add_argument("--database", default=api.DEFAULT, help="the database of an online change")
        parser.add_argument("--start", type=int, help="copy only rows with keys greater than this one")
        parser.add_argument("--limit", type=int, help="copy only rows with keys up to this one")

    def run_command(self, options: dict[str, Any]) -> None:
        app_label, verb, name = options["app_label"], options["verb"], options["name"]
        limits = {key: options[key] for key in ("start", "limit") if options[key] is not None}
        function = self._function(app_label, verb, name)
        if function is not None:
            function(**limits)
        elif verb == "rename":
            call_command("onlinemigration", "cutover", app_label, name, "--no-input", database=options["database"])
        elif limits:
            db_alias = options["database"]
            change = reports.find(app_label, name, db_alias)
            self.write(f"{change.copy_range(db_alias, limits.get('start'), limits.get('limit'))} rows were read.")
        else:
            # It launches a change that has no record, and continues one that has.
            call_command("onlinemigration", "start", app_label, name, database=options["database"])

    def _function(self, app_label: str, verb: str, name: str) -> Any:
        """Return the function of a file of Django Online Migration, or None if there is no such file."""
        try:
            config = apps.get_app_config(app_label)
        except LookupError as error:
            raise CommandError(str(error)) from error
        name = name.removesuffix(".py")
        if not name.isidentifier() and not name.replace("_", "").isalnum():
            raise CommandError(f"Found the name {name!r}; allowed: letters, digits and underscores.")
        if not (Path(config.path) / FOLDER / f"{name}.py").is_file():
            return None
        module = importlib.import_module(f"{config.name}.{FOLDER}.{name}")
        function = getattr(module, verb, None)
        if not callable(function):
            raise CommandError(f"{config.label}/{FOLDER}/{name}.py has no function {verb}(); it must have {VERBS}.")
        return function
