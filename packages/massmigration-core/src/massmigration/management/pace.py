"""The options of commands that change the pace of a migration."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from massmigration.conf import LEVELS
from massmigration.pace import SETTABLE

DEFAULT = "default"
"""The value that resets an option to what the migration's file and the settings say."""

_HELP = {
    "batch_duration": ("SECONDS", "target duration of a batch"),
    "max_batch_size": ("ROWS", "maximum number of rows in a batch"),
    "max_rows_per_second": ("N", "maximum number of rows per second, for all workers together"),
    "max_workers": ("N", "maximum number of shards that have a worker at the same time"),
    "window": ("START-END", "the only time of the day at which batches start, such as 22:00-06:00"),
    "throttles": ("on|off", "whether the throttles of the migration and of the settings are called"),
    "level": ("|".join(LEVELS), "how much the migration gives way to the site"),
}


def flag(name: str) -> str:
    """Return the option of a part of the pace."""
    return f"--{name.replace('_', '-')}"


def add_pace_options(parser: CommandParser) -> None:
    """Add an option for each part of the pace."""
    group = parser.add_argument_group(
        "options of pace", f"Each takes {DEFAULT!r}, too: what the migration's file and the settings say."
    )
    for name in SETTABLE:
        metavar, help_text = _HELP[name]
        group.add_argument(flag(name), metavar=metavar, help=help_text)


def given_pace(options: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of the pace that the command line gives."""
    given = {name: options[name] for name in SETTABLE if options.get(name) is not None}
    return {name: None if value == DEFAULT else value for name, value in given.items()}
