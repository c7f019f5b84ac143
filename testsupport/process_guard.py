"""A program that becomes a server process, which runs as another user and dies with the process that started it.

It is started as `python -I -S process_guard.py PARENT SIGNAL UID GID COMMAND...`. It is a program and no `preexec_fn`,
because running Python code after a fork is not safe in a process with threads. It also changes the user, which
`subprocess` could do, because a change of user cancels the request of `prctl`: the order matters.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, uid, gid = map(int, sys.argv[1:5])
    command = sys.argv[5:]
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_parent(death_signal)
    if os.getppid() != parent:
        sys.exit("The process that wanted this server has ended.")
    os.execv(command[0], command)


def die_with_parent(death_signal: int) -> None:
    """Ask for this signal at the end of the parent, or rather of its thread that started us; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)


if __name__ == "__main__":
    main()
