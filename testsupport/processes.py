"""Server processes in a temporary folder, neither of which outlives the process that made them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

PROC = Path("/proc")
GUARD = Path(__file__).with_name("process_guard.py")
PREFIX = "massmigration-tests-"
START_TIMEOUT = 180.0


class StartError(RuntimeError):
    """A server is missing, or ended instead of starting."""


class RunFolder:
    """A temporary folder that is locked while its process lives, so that the next run can remove old folders."""

    def __init__(self) -> None:
        base = _temporary_folder()
        _remove_folders_of_dead_runs(base)
        unlocked = Path(tempfile.mkdtemp(prefix="new-" + PREFIX, dir=base))
        self._lock = (unlocked / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only a folder that is locked already gets the name that other runs look for.
        self.path = unlocked.rename(base / unlocked.name.removeprefix("new-"))
        self.path.chmod(0o711)
        self._servers: Counter[str] = Counter()

    def make(self, name: str, *, is_for_server: bool = False) -> Path:
        """Create a folder in this one, owned by the servers' user if it is for a server."""
        path = self.path / name
        path.mkdir(mode=0o700)
        if is_for_server:
            os.chown(path, *server_user())
        return path

    def next_number(self, title: str) -> str:
        """Return a suffix that tells servers of one kind apart: nothing for the first, then " 2" and so on."""
        self._servers[title] += 1
        return "" if self._servers[title] == 1 else f" {self._servers[title]}"

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _temporary_folder() -> Path:
    # /tmp first: sockets need short paths, and a TMPDIR may be private to root.
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())


def _remove_folders_of_dead_runs(base: Path) -> None:
    for folder in base.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def server_user() -> tuple[int, int]:
    """Return the user and group of servers: the same as of this process, or nobody's if it runs as root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    for name in ("nobody", "daemon"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    return 65534, 65534


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int, question: bytes = b"", answer: bytes = b"") -> bool:
    """Return whether a server listens on this port and, if there is a question, answers it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if not question:
                return True
            connection.sendall(question)
            return answer in connection.recv(256)
    except OSError:
        return False


def process_states() -> dict[int, tuple[int, str]]:
    """Return the parent of every process, and the first letter of its state."""
    if not (PROC / "self" / "stat").exists():
        shown = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
        return {int(pid): (int(parent), state[0]) for pid, parent, state in map(str.split, shown.splitlines())}
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            # The name of the program, in parentheses, may itself contain spaces and parentheses.
            state, parent, *_ = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            found[int(folder.name)] = (int(parent), state)
    return found


class Process:
    """A child process with its log. `death_signal` ends it when it is stopped or its parent ends."""

    def __init__(self, command: Sequence[object], folder: Path, *, death_signal: signal.Signals) -> None:
        self.command = [str(word) for word in command]
        self.log = folder / "log"
        self._death_signal = death_signal
        arguments = [os.getpid(), int(death_signal), *server_user(), *self.command]
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *map(str, arguments)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for the tests, which then end their servers.
                start_new_session=True,
            )

    def finish(self) -> None:
        """Wait until a command has ended by itself."""
        try:
            code = self._popen.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.stop()
            raise self._failure(f"took longer than {START_TIMEOUT:.0f} s") from None
        if code != 0:
            raise self._failure(f"ended with code {code}")

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if (code := self._popen.poll()) is not None:
                raise self._failure(f"ended with code {code} while it started")
            if is_ready():
                return
            time.sleep(0.02)
        self.stop()
        raise self._failure(f"was not ready after {START_TIMEOUT:.0f} s")

    def has_logged(self, text: bytes) -> bool:
        return text in self.log.read_bytes()

    def kill(self) -> None:
        """Kill the process by SIGKILL, whatever its death signal is."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """Kill the process at once: its files are removed with its folder."""
        if self._popen.poll() is None:
            self._popen.send_signal(self._death_signal)
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _failure(self, what: str) -> StartError:
        log = self.log.read_text(errors="replace")[-3000:]
        return StartError(f"{self.command[0]} {what}; the end of its log:\n{log}")
