"""Calls to users' code, with checks of what it raises and returns."""

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

from massmigration import text
from massmigration.exceptions import BadMigrationFile, ExitRaised

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exits_refused(function: Callable[..., Any] | str) -> Iterator[None]:
    """Raise `ExitRaised` if `function` raises something that would end the worker, such as `SystemExit`.

    That is every exception that is not an `Exception`, including `asyncio.CancelledError` and `GeneratorExit`. If a
    signal handler raised it, because the worker itself is being stopped, let it pass.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if is_from_signal(error):
            raise
        raised = f"{type(error).__name__}{text.safe_repr(error.args)}"
        raise ExitRaised(
            f"{function if isinstance(function, str) else _name(function)} raised {raised}, which would have ended "
            "its worker. Raise another exception to fail, or return to continue."
        ) from error


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `function(*arguments)`. Raise `ExitRaised` if it would end the worker."""
    with exits_refused(function):
        return function(*arguments)


def call_operation(operation: Callable[..., Any], target: Any, db_alias: str) -> None:
    """Call an operation with an object, or with the queryset of a batch, and check what it returns."""
    answer = call(operation, target, db_alias)
    if answer is not None:
        check_executed(operation, answer)


def check_executed(operation: Callable[..., Any], answer: Any) -> None:
    """Raise `BadMigrationFile` if `answer` is a coroutine, a generator or the like, so that no code was executed."""
    if inspect.iscoroutine(answer):
        answer.close()  # or Python would warn that it was never awaited
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise BadMigrationFile(
            f"{_name(operation)} returned a {type(answer).__name__}, so none of its code was executed. Define it with "
            "plain def and without yield. To run asynchronous code in it, use asgiref.sync.async_to_sync."
        )


def is_lazy(operation: Callable[..., Any]) -> bool:
    """Return whether a call would certainly execute no code: the function is asynchronous or a generator."""
    return (
        inspect.iscoroutinefunction(operation)
        or inspect.isgeneratorfunction(operation)
        or inspect.isasyncgenfunction(operation)
    )


def call_problem(function: Any, *arguments: Any) -> str:
    """Return why a call with these arguments would fail or execute nothing, or an empty string."""
    if not callable(function):
        return "it is not a function"
    if is_lazy(function):
        return "it is asynchronous or contains yield, so a call would execute none of its code"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it is not written in Python
        return ""
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return str(error)
    return ""


def is_from_signal(error: BaseException) -> bool:
    """Return whether a signal raised the exception: Ctrl-C, or a handler with which a queue stops its worker."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    handlers = _handler_codes()
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _handler_codes() -> set[CodeType]:
    found: Any = map(signal.getsignal, signal.valid_signals())
    codes = (getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in found)
    return {code for code in codes if isinstance(code, CodeType)}


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', repr(function))}()"
