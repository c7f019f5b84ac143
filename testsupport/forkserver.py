"""A process that forks workers in a few milliseconds each, because it has set Django up.

Started as `python -m testsupport.forkserver PARENT`. Takes one JSON request a line and answers each with a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import django

from testsupport.process_guard import die_with_parent


def main() -> None:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("The tests that wanted workers have ended.")
    # Ignore a Ctrl-C in the terminal: this process ends with the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    django.setup()
    from testsupport.worker_process import prepare, work

    prepare()

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
