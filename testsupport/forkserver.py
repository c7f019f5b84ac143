"""Forks workers on demand, in a few milliseconds each: Django is set up only once, in their parent.

Started as `python -m testsupport.forkserver PARENT`. Takes one JSON request a line and answers each with a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import django

from testsupport.guard import die_with_parent


def main() -> None:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("The tests that wanted workers have ended.")
    # A Ctrl-C in the terminal is for the tests, at whose end everything here ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    django.setup()
    from testsupport.worker import work

    while line := sys.stdin.readline():
        request = json.loads(line)
        if "order" in request:
            server = os.getpid()
            answer = os.fork()
            if answer == 0:
                work(request["order"], parent=server)
                return
        else:
            answer = _exit_code(request["poll"])
        print(json.dumps(answer), flush=True)  # noqa: T201


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    main()
