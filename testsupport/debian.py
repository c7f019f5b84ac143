"""Programs from Debian's unstable suite, unpacked into the user's cache: nothing is installed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUITE = "sid"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = Path("/etc/apt")
NEEDED = ["usr/sbin", "usr/lib", "usr/lib64", "usr/share/mysql*"]
"""What is kept of the unpacked packages."""

ONE_LINE = r"^deb\s+(?:\[.*?\]\s+)?(\S+)\s+(\S+)\s+([^#\n]+)"
"""The address, suite and components of a source in apt's older format."""

SCRIPT = """#!/bin/sh
# Runs {program} with the libraries that it was built for, from the folder in which this script is.
here=$(dirname "$(readlink -f "$0")")
exec "$here/{loader}" --library-path "{libraries}" "$here/{program}" "$@"
"""


class CannotFetch(RuntimeError):
    """The packages cannot be fetched here; the message says why."""


def cache_folder() -> Path:
    """Return the folder in which downloads are kept between runs."""
    given = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) / "massmigration-tests"


def unpacked(package: str, program: str) -> Path:
    """Return a script that runs a program of a package. The first call fetches the package and all that it depends on.

    Runs that begin at the same time wait for the first of them.
    """
    folder = cache_folder() / f"debian-{package}"
    script = folder / Path(program).name
    if script.exists():
        return script
    problem = why_impossible()
    if problem:
        raise CannotFetch(problem)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not script.exists():
            print(f"Fetching {package} from Debian into {folder} ...", file=sys.stderr, flush=True)  # noqa: T201
            _unpack(package, program, folder)
    return script


def why_impossible() -> str:
    """Return why packages of Debian cannot be unpacked on this machine, or an empty string."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "this is not a Debian with apt-get and dpkg-deb"
    if not KEYRING.exists():
        return f"there is no {KEYRING}"
    return "" if mirror() else f"the files in {SOURCES} name no mirror of this release of Debian"


def mirror() -> str:
    """Return the address of Debian's archive that this machine's own apt is set up with, or an empty string."""
    release = _release()
    if release.get("ID") != "debian":
        return ""
    found = (
        uri
        for uri, suites, components in _sources()
        if release.get("VERSION_CODENAME") in suites and "main" in components
    )
    return next(found, "")


def _release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _sources() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the address, suites and components of each source of apt."""
    for path in sorted(SOURCES.glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            pairs = (line.partition(":") for line in stanza.splitlines() if not line.startswith(("#", " ")))
            fields = {name.strip().lower(): value.split() for name, _, value in pairs}
            for uri in fields.get("uris", []):
                yield uri, fields.get("suites", []), fields.get("components", [])
    for path in [*SOURCES.glob("sources.list"), *sorted(SOURCES.glob("sources.list.d/*.list"))]:
        for uri, suite, components in re.findall(ONE_LINE, path.read_text(), re.MULTILINE):
            yield uri, [suite], components.split()


def _unpack(package: str, program: str, folder: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        everything = work / "everything"
        for archive in _downloaded(package, work):
            _run("dpkg-deb", "--extract", archive, everything)
        root = work / "root"
        root.mkdir()
        for path in (found for pattern in NEEDED for found in everything.glob(pattern)):
            (root / path.relative_to(everything)).parent.mkdir(parents=True, exist_ok=True)
            path.rename(root / path.relative_to(everything))
        _write_script(root, program)
        root.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        root.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _downloaded(package: str, work: Path) -> list[Path]:
    """Download a package and all that it depends on, as if nothing were installed. Return the files."""
    lists, archives = work / "lists", work / "archives"
    (lists / "partial").mkdir(parents=True)
    (archives / "partial").mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::Lists": lists,
        "Dir::State::status": work / "status",
        "Dir::Cache::archives": archives,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Debug::NoLocking": 1,
        "Acquire::Languages": "none",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 10,
        "Acquire::https::Timeout": 10,
        "APT::Sandbox::User": "",
    }
    command = ["apt-get", "--quiet=2", "--yes", *(f"--option={name}={value}" for name, value in options.items())]
    _run(*command, "update")
    _run(*command, "--no-install-recommends", "--download-only", "install", package)
    return sorted(archives.glob("*.deb"))


def _write_script(root: Path, program: str) -> None:
    loader = next(path for path in sorted(root.glob("usr/lib*/**/ld-linux-*.so.*")))
    folders = sorted({path.parent.relative_to(root) for path in root.glob("usr/lib/**/*.so*")})
    libraries = ":".join(f"$here/{each}" for each in folders)
    script = root / Path(program).name
    script.write_text(SCRIPT.format(program=program, loader=loader.relative_to(root), libraries=libraries))
    script.chmod(0o755)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CannotFetch(f"{words[0]} {words[-1]} failed: {said[-1] if said else 'no reason given'}")
