"""What the commands have in common."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import logging
import os
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from massmigration import actors
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import MassMigrationError
from massmigration.executor import finishing
from massmigration.management.bar import Bar

logger = logging.getLogger("massmigration")


class MassMigrationCommand(BaseCommand):
    """Gives verbs as the user of the operating system, and reports what `api` refuses in its words."""

    bar: Bar

    def handle(self, *args: Any, **options: Any) -> None:
        self.bar = Bar(options.get("stderr") or sys.stderr, is_quiet=options["verbosity"] == 0)
        try:
            with actors.acting(f"command:{_user()}", source="command"), _log_shown(self.bar):
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


@contextlib.contextmanager
def _log_shown(bar: Bar) -> Iterator[None]:
    """Where nobody has configured logging, show warnings a line each, instead of Python's last resort."""
    handler = _Notes(bar)
    if logger.hasHandlers():
        yield
        return
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notes(logging.Handler):
    """Shows a warning or an error in one line. Tracebacks are for logs."""

    def __init__(self, bar: Bar) -> None:
        super().__init__(logging.WARNING)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == finishing.__name__:
            return  # that and why a migration has failed is the command's own result
        error = record.exc_info[1] if record.exc_info else None
        self._bar.note(record.getMessage() + (f" ({type(error).__name__}: {error})" if error else ""))


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


def confirm_launch(migrations: Iterable[BaseMigration], db_alias: str, *, is_interactive: bool) -> None:
    """Have confirmed what these migrations want confirmed before they are launched, all in one question."""
    told = [f"\n  {each.key}: {each.confirmation}" for each in migrations if each.confirmation]
    if told:
        question = f"On database {db_alias!r}, this cannot be taken back:{''.join(told)}\nAre you sure?"
        confirm(question, is_interactive=is_interactive)


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
