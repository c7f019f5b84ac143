"""Refuses flags of `massmigrate` that make no sense together."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from django.core.management.base import CommandError

MODES = ("plan", "check", "fake", "dry_run", "retry_failed", "recover", "verify")
"""What the command does instead of its usual work: one of them, or `--plan` with `--check`."""

RUNLESS = ("plan", "check", "fake", "dry_run", "verify")
"""Those that run nothing, so that it cannot be said how."""


def check(options: dict[str, Any]) -> None:
    """Raise `CommandError`, which says what to do instead."""
    given = [mode for mode in MODES if options[mode]]
    for one, other in combinations(given, 2):
        if (one, other) != ("plan", "check"):
            raise CommandError(f"{_flag(one)} and {_flag(other)} exclude each other; give one of them.")
    hows = [how for how in ("local", "detach") if options[how]] + ["workers"] * (options["workers"] > 1)
    for mode in given:
        if mode in RUNLESS and hows:
            raise CommandError(f"{_flag(mode)} runs nothing, so {_flag(hows[0])} does not go with it.")
    if options["local"] and options["detach"]:
        raise CommandError("--local runs in this process and --detach does not wait; give one of them.")
    if options["recover"] and options["app_label"]:
        raise CommandError(f"--recover is for whatever is stuck; leave out {options['app_label']!r}.")
    if options["fake"] and not options["app_label"]:
        raise CommandError("--fake needs an app label, or a migration's key.")
    if options["dry_run"] and not (options["name"] or ":" in (options["app_label"] or "")):
        raise CommandError("--dry-run tries one migration; name it, as in: massmigrate --dry-run 10 shop 0001_slugs")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
