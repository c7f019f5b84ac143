"""Makes the file of a new mass migration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandParser

from massmigration.management.choosing import check_app
from massmigration.management.scaffolding import KINDS, create, draft


class Command(BaseCommand):
    """`makemassmigration app_label name`."""

    help = "Makes a new mass migration: the next number, depending on the app's last one."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("app_label", help="The app that it is for.")
        parser.add_argument("name", help="Its name without the number, as in fill_slugs.")
        parser.add_argument(
            "--template",
            default="mapper",
            metavar="KIND",
            help=f"{', '.join(KINDS)}, or the path of a template of your own. Defaults to mapper.",
        )

        parser.add_argument("--dry-run", action="store_true", help="Show the file, and write nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        check_app(options["app_label"])
        wanted = apps.get_app_config(options["app_label"]), options["name"], options["template"]
        if options["dry_run"]:
            found = draft(*wanted)
            self.stdout.write(f"Would create {_shown(found.path)}:\n\n{found.source}", ending="")
        else:
            self.stdout.write(f"Created {_shown(create(*wanted))}")


def _shown(path: Path) -> Path:
    """Relative to where the user is, if that is above it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
