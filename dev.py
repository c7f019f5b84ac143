#!/usr/bin/env python3
"""A command that runs a session of noxfile.py and needs only Python.

    python3 dev.py tests            what continuous integration runs
    python3 dev.py demo             try it in a browser
    python3 dev.py tests -k shard   everything after the session's name goes to the session
    python3 dev.py --list           every session

It makes a virtual environment of its own beside this file, installs nox and uv there, and nowhere else.
This file keeps to syntax that old interpreters can read, so that they can say what is wrong.
"""

import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
VENV = os.path.join(ROOT, ".venv-dev")  # noqa: PTH118
REQUIREMENT = "nox[uv]>=2025.5"
OLDEST = (3, 10)
NEWEST = (3, 19)


def main():
    """Install nox if it is missing, and replace this process by it."""
    os.chdir(ROOT)
    if sys.version_info < OLDEST or not can_make_environments(sys.executable):
        start_again_with_another_python()
    with lock():
        if not is_installed():
            install()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-l", "--list"):
        become([venv_python(), "-m", "nox", "--list"])
    if arguments[0] in ("-h", "--help"):
        sys.exit(__doc__.strip())
    posargs = arguments[2:] if arguments[1:2] == ["--"] else arguments[1:]
    become([venv_python(), "-m", "nox", "--session", arguments[0], "--"] + posargs)


def can_make_environments(python):
    """Return whether this interpreter runs, is new enough and can make a virtual environment with pip in it."""
    test = "import sys, venv, ensurepip; sys.exit(sys.version_info < %r)" % (OLDEST,)
    try:
        return subprocess.call([python, "-c", test], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def start_again_with_another_python():
    """Replace this process by the newest suitable python3.x on PATH, or exit with a message."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        python = shutil.which("python3.%d" % minor)
        if python and can_make_environments(python):
            become([python, os.path.abspath(__file__)] + sys.argv[1:])  # noqa: PTH100
    if sys.version_info < OLDEST:
        sys.exit(
            "dev.py needs Python %d.%d or newer with venv, found only %s; install one (Debian, Ubuntu: "
            "`apt install python3 python3-venv`) and start it as `python3.x dev.py`."
            % (OLDEST + (sys.version.split()[0],))
        )
    sys.exit(
        "This Python cannot make virtual environments; install its venv (Debian, Ubuntu: `apt install python3-venv`)."
    )


def lock():
    """Lock out other runs while this one, or a pip that a killed run left behind, installs."""
    held = open(os.path.join(ROOT, ".venv-dev.lock"), "w")  # noqa: PTH118, PTH123, SIM115
    try:
        import fcntl
    except ImportError:
        return held
    fcntl.flock(held, fcntl.LOCK_EX)
    os.set_inheritable(held.fileno(), True)
    return held


def venv_python():
    """Return the environment's interpreter."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(VENV, folder, name)  # noqa: PTH118


def stamp():
    """Return the path of the file that is written when an install is complete."""
    return os.path.join(VENV, "installed-by-dev.txt")  # noqa: PTH118


def is_installed():
    """Return whether an earlier run installed this requirement, for an interpreter that still runs."""
    try:
        with open(stamp()) as file:  # noqa: PTH123
            if file.read() != REQUIREMENT:
                return False
        return subprocess.call([venv_python(), "-c", "import nox, uv"], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def install():
    """Create the environment again, whatever an interrupted run has left."""
    print("Preparing %s ..." % os.path.basename(VENV), file=sys.stderr, flush=True)  # noqa: PTH119
    shutil.rmtree(VENV, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", VENV],
        [venv_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT],
    ):
        if subprocess.call(command, close_fds=False) != 0:
            sys.exit("dev.py could not prepare its environment; the command that failed was: " + " ".join(command))
    with open(stamp(), "w") as file:  # noqa: PTH123
        file.write(REQUIREMENT)


def become(command):
    """Replace this process by a command, so that signals and the exit code are the command's."""
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
