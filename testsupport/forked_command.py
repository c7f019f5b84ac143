"""A command of Python that is forked from a process which has imported the libraries of queues.

Importing Celery takes a second of processor time. What runs is the command itself, in a process of its own; only the
modules of libraries are there already. Nothing that reads settings is imported before the fork.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from testsupport.process_guard import die_with_parent

LIBRARIES = [
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "celery.worker.worker",
    "django.core.management",
    "django.db.models",
    "django.http",
    "django.template",
    "django.urls",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "psycopg",
    "pymysql",
    "rq.cli",
    "testsupport.forked_command",
]


class ForkedCommand:
    """A running command `[sys.executable, "-m", MODULE, ...]` or `[sys.executable, "-c", CODE, ...]`, like a `Popen`.

    It leads a session of its own, writes into `log`, and is killed with the process that has started it.
    """

    def __init__(self, words: Sequence[str], *, environ: Mapping[str, str], log: Path) -> None:
        assert words[0] == sys.executable
        self._process = _context().Process(target=_run, args=(list(words[1:]), dict(environ), str(log)))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that has killed the process; `None`: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"Process {self.pid} runs after {timeout:.0f} s.")
        return self.returncode

    def terminate(self) -> None:
        self._process.terminate()


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def _run(words: list[str], environ: dict[str, str], log: str) -> None:
    os.setsid()
    die_with_parent(signal.SIGKILL)
    os.environ.clear()
    os.environ.update(environ)
    # As the interpreter does at its start, in front of what the process that was forked had.
    sys.path[:0] = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    with open(log, "ab") as out:  # noqa: PTH123
        for descriptor in (1, 2):
            os.dup2(out.fileno(), descriptor)
    option, program, *arguments = words
    if option == "-m":
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
