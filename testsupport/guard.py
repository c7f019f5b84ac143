"""Becomes a server process that runs as another user and dies with the process that started it.

Started as `python -I -S guard.py PARENT SIGNAL UID GID COMMAND...`. A file of its own instead of a `preexec_fn`,
because forking Python code in a process with threads is not safe. The standard library's `user=` would do for the
user, but a change of user takes back what `prctl` has asked for, so both are done here, in this order.
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
    """Asks for this signal at the end of the parent, or rather of its thread that started us; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)


if __name__ == "__main__":
    main()
