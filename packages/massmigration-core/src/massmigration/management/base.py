"""The base class of the commands, and confirmations."""

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
from django.db import DatabaseError

from massmigration import actors, text
from massmigration.definitions.base import BaseMigration
from massmigration.dialects.errors import is_access_denied, is_read_only, is_timeout, is_transient, with_advice
from massmigration.exceptions import MassMigrationError
from massmigration.executor import completion
from massmigration.management.progress_bar import ProgressBar

logger = logging.getLogger("massmigration")


class MassMigrationCommand(BaseCommand):
    """A command whose actor is the user of the operating system, and which reports refusals as `CommandError`."""

    bar: ProgressBar

    def handle(self, *args: Any, **options: Any) -> None:
        self.bar = ProgressBar(options.get("stderr") or sys.stderr, is_quiet=options["verbosity"] == 0)
        try:
            with actors.acting(f"command:{_user()}", source="command"), _log_shown(self.bar):
                self.run_command(options)
        except MassMigrationError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            if not (is_timeout(error) or is_transient(error) or is_read_only(error) or is_access_denied(error)):
                raise
            raise CommandError(text.described(with_advice(error))) from error

    @abstractmethod
    def run_command(self, options: dict[str, Any]) -> None:
        """Run the command with these options."""

    def write(self, text: str) -> None:
        """Write a line of output and flush it."""
        self.stdout.write(text)
        self.stdout.flush()


@contextlib.contextmanager
def _log_shown(bar: ProgressBar) -> Iterator[None]:
    """Show each warning as one line if logging is not configured."""
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
    """A log handler that shows warnings and errors as one line without a traceback."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__(logging.WARNING)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == completion.__name__:
            return  # the command itself reports a failed migration
        error = record.exc_info[1] if record.exc_info else None
        self._bar.note(record.getMessage() + (f" ({text.described(error)})" if error else ""))


def confirm(question: str, *, is_interactive: bool) -> None:
    """Ask the user, if interactive. Raise `CommandError` unless the answer is yes."""
    if not is_interactive:
        return
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        raise CommandError(
            "Confirmation required, but there is no terminal. Nothing was changed. Use --no-input to confirm."
        ) from None
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was changed.")


def confirm_launch(migrations: Iterable[BaseMigration], db_alias: str, *, is_interactive: bool) -> None:
    """Ask the user to confirm the launch of the migrations that have a `confirmation` text, in one question."""
    texts = [f"\n  {each.key}: {each.confirmation}" for each in migrations if each.confirmation]
    if texts:
        question = f"On database {db_alias!r}, this cannot be undone:{''.join(texts)}\nAre you sure?"
        confirm(question, is_interactive=is_interactive)


def positive(text: str) -> int:
    """Return an argument as a number. Raise `ArgumentTypeError` unless it is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this user id, as in some containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
