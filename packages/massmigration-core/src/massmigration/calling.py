"""Calls users' code, and lets nothing that it raises or returns pass for something else."""

from __future__ import annotations

import contextlib
import inspect
import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from massmigration.exceptions import BadMigrationFile, ExitRaised

logger = logging.getLogger(__name__)

_EXITS = (SystemExit, KeyboardInterrupt)


@contextlib.contextmanager
def exits_refused(function: Callable[..., Any]) -> Iterator[None]:
    """Raise `ExitRaised` where `function` would end the worker, unless the worker itself was told to end."""
    try:
        yield
    except _EXITS as error:
        if is_from_outside(error):
            raise
        raise ExitRaised(
            f"{_named(function)} raised {type(error).__name__}{error.args!r}, which would have ended its worker. "
            "Raise another exception to fail, or return to go on."
        ) from error


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it, with its exits refused."""
    with exits_refused(function):
        return function(*arguments)


def operate(operation: Callable[..., Any], target: Any, db_alias: str) -> None:
    """Call an operation on an object, or on the queryset of a batch."""
    answer = call(operation, target, db_alias)
    if answer is not None:
        refuse_unrun(operation, answer)


def refuse_unrun(operation: Callable[..., Any], answer: Any) -> None:
    """Raise `BadMigrationFile` if the call has only made something that is still to be run. Ignore other answers."""
    if inspect.iscoroutine(answer):
        answer.close()  # or Python would warn that it was never awaited
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise BadMigrationFile(
            f"{_named(operation)} returned a {type(answer).__name__}, so nothing of it was run. Define it with plain "
            "def and without yield; asgiref.sync.async_to_sync runs asynchronous code within it."
        )


def is_unrun(operation: Callable[..., Any]) -> bool:
    """Whether it can be seen without a call that a call would run nothing."""
    return (
        inspect.iscoroutinefunction(operation)
        or inspect.isgeneratorfunction(operation)
        or inspect.isasyncgenfunction(operation)
    )


def obstacle(function: Any, *arguments: Any) -> str:
    """Why a call with these arguments would fail or run nothing; empty as far as can be seen without it."""
    if not callable(function):
        return "it is no function"
    if is_unrun(function):
        return "it is asynchronous, or has a yield: a call would run nothing of it"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is no Python, nothing is known
        return ""
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return str(error)
    return ""


def is_from_outside(error: BaseException) -> bool:
    """Whether a signal raised it: Ctrl-C, or a handler by which a queue's worker ends."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    handlers = _codes_of_handlers()
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _codes_of_handlers() -> set[CodeType]:
    found: Any = map(signal.getsignal, signal.valid_signals())
    codes = (getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in found)
    return {code for code in codes if isinstance(code, CodeType)}


def _named(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', repr(function))}()"
