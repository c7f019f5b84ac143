"""What the commands have in common."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from abc import abstractmethod
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from massmigration import actors
from massmigration.exceptions import MassMigrationError
from massmigration.management.bar import Bar


class MassMigrationCommand(BaseCommand):
    """Gives verbs as the user of the operating system, and reports what `api` refuses in its words."""

    bar: Bar

    def handle(self, *args: Any, **options: Any) -> None:
        self.bar = Bar(options.get("stderr") or sys.stderr, is_quiet=options["verbosity"] == 0)
        try:
            with actors.acting(f"command:{_user()}"):
                self.obey(options)
        except MassMigrationError as error:
            raise CommandError(str(error)) from error

    @abstractmethod
    def obey(self, options: dict[str, Any]) -> None:
        """Do what the command line says."""

    def tell(self, text: str) -> None:
        """Write a result, at once."""
        self.stdout.write(text)
        self.stdout.flush()


def confirm(question: str, *, is_interactive: bool) -> None:
    """Return if the user agrees or is not to be asked; raise `CommandError` otherwise."""
    if not is_interactive:
        return
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        raise CommandError("Nobody is there to confirm it. Nothing was changed; --no-input does not ask.") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was changed.")


def positive(text: str) -> int:
    """The type of an argument that is 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this user id, as in some containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
