"""The command that creates the file of a new mass migration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandParser

from massmigration.management.scaffolding import KINDS, create, draft
from massmigration.management.selection import check_app


class Command(BaseCommand):
    """`makemassmigration app_label name`."""

    help = "Creates a new mass migration with the next number, which depends on the last one of the app."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("app_label", help="Label of the app.")
        parser.add_argument("name", help="Name without the number, as in fill_slugs.")
        parser.add_argument(
            "--template",
            default="mapper",
            metavar="KIND",
            help=f"{', '.join(KINDS)}, the path of a file, or NAME for migration_templates/NAME.py in a folder of "
            "templates. Defaults to mapper.",
        )

        parser.add_argument("--dry-run", action="store_true", help="Show the file without writing it.")

    def handle(self, *args: Any, **options: Any) -> None:
        check_app(options["app_label"])
        wanted = apps.get_app_config(options["app_label"]), options["name"], options["template"]
        if options["dry_run"]:
            found = draft(*wanted)
            self.stdout.write(f"Would create {_shown(found.path)}:\n\n{found.source}", ending="")
        else:
            self.stdout.write(f"Created {_shown(create(*wanted))}")


def _shown(path: Path) -> Path:
    """Return the path relative to the current folder, if it is inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
