"""Every check of the repository as a nox session; plain `nox` runs the tests as continuous integration does."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/check.py"))
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OLDEST_TYPED_PYTHON = (3, 11)

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# With the Pythons that the release notes of each name.
DJANGOS = {"4.2": PYTHONS[:3], "5.2": PYTHONS, "6.0": PYTHONS[2:], "6.1": PYTHONS[2:]}
PAIRS = [(python, django) for django, pythons in DJANGOS.items() for python in pythons]
LOWEST = [
    "Django==4.2.*",
    "celery==5.3.*",
    "kombu==5.3.*",
    "redis==5.0.*",
    "rq==1.16.*",
    "django-rq==2.10.2",
]

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False

# Find pyenv's interpreters without activation; those on PATH come first.
os.environ["PATH"] = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), *map(str, sorted(Path.home().glob(".pyenv/versions/3.1*/bin")))]
)
# The tests start many processes. Without compiled files, each of them would compile Django.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# uv does not read pip's settings: copy them to uv's unless those are set.
for pip_name, uv_name in [
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
    ("PIP_CERT", "SSL_CERT_FILE"),
    ("PIP_DEFAULT_TIMEOUT", "UV_HTTP_TIMEOUT"),
]:
    if os.environ.get(pip_name):
        os.environ.setdefault(uv_name, os.environ[pip_name])
# uv has certificates of its own, but only the system's are right behind a company's proxy.
SYSTEM_CERTIFICATES = ssl.get_default_verify_paths()
if SYSTEM_CERTIFICATES.cafile or (SYSTEM_CERTIFICATES.capath and any(Path(SYSTEM_CERTIFICATES.capath).iterdir())):
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")


def group(*names: str) -> list[str]:
    """Return the requirements of these dependency groups."""
    return nox.project.dependency_groups(PROJECT, *names)


def install(session: nox.Session, *requirements: str) -> None:
    """Install all packages as editable and the requirements, in one command so that the versions agree."""
    editables = [argument for path in PACKAGES for argument in ("--editable", str(path))]
    session.install(*editables, *requirements)


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest on four workers, because tests often wait. Arguments after `--` come last and override these."""
    session.run("python", "-m", "pytest", "-n", "4", *arguments, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests except the chaos tests on real servers, in random order."""
    install(session, *group("test", "browser"))
    pytest(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Show the branch coverage of the tests that `quick` runs. Coverage doubles the time that tests take."""
    install(session, *group("test"))
    pytest(session, "--quick", "--cov", "--cov-branch", "--cov-report=term:skip-covered")


@nox.session
def quick(session: nox.Session) -> None:
    """Run on SQLite alone what needs no server and is not slow: most of the code's branches in two minutes."""
    install(session, *group("test"))
    pytest(session, "-n", "auto", "--quick")


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, freeze and flood real workers for minutes; `-- -k storm` for storms of MM_STORM_FAULTS faults."""
    install(session, *group("test"))
    pytest(session, "-n", "0", "-m", "chaos")


@nox.session
@nox.parametrize(["python", "django"], PAIRS)
def matrix(session: nox.Session, django: str) -> None:
    """Run the tests on every supported pair of Python and Django; pairs without an interpreter are skipped."""
    install(session, *group("test", "browser"), f"Django=={django}.*")
    pytest(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests on the oldest supported version of everything."""
    install(session, *group("test"), *LOWEST)
    pytest(session)


@nox.session
def screenshots(session: nox.Session) -> None:
    """Take a picture of every page, in light, in dark and as on a phone, into screenshots/."""
    install(session, *group("test", "browser"))
    session.run("python", "-m", "pytest", "testsupport/screenshots.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and wording; `nox -s lint -- --fix` fixes what can be fixed."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("python", "-m", "testsupport.wording")


@nox.session
def types(session: nox.Session) -> None:
    """Type-check the packages in strict mode."""
    if sys.version_info < OLDEST_TYPED_PYTHON:
        session.error(f"The type checker needs Python 3.11 or newer, found {THIS_PYTHON}.")
    install(session, *group("types"))
    session.run("mypy", *session.posargs)


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point down the layers, and that adapters import only documented modules."""
    install(session, *group("imports"))
    session.run("lint-imports", *session.posargs)


@nox.session(venv_backend="none")
def model(session: nox.Session) -> None:
    """Check the protocol's model and its mutations; `-- --deep` searches for longer, `-- --help` lists more."""
    session.run(sys.executable, "specs/protocol_model.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, offline, with warnings as errors."""
    install(session, *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build every package's sdist, and its wheel from that sdist, and check both."""
    session.install(*group("build"))
    output = ROOT / "dist"
    shutil.rmtree(output, ignore_errors=True)
    for path in PACKAGES:
        session.run("python", "-m", "build", "--outdir", str(output), str(path))
    session.run("twine", "check", "--strict", *map(str, sorted(output.iterdir())))


@nox.session
def demo(session: nox.Session) -> None:
    """Run a migration over a small database and watch it in a browser; `-- --check` ends by itself."""
    session.install("--editable", str(ROOT / "packages/massmigration-core"), *group("demo"))
    session.run("python", "examples/demo/manage.py", "demo", *session.posargs)


@nox.session
@nox.parametrize("example", [nox.param(name, id=name) for name in EXAMPLES])
def examples(session: nox.Session, example: str) -> None:
    """Run an example from end to end."""
    install(session, *group("test"))
    session.run("python", "-m", "testsupport.examples", example)


@nox.session
def online(session: nox.Session) -> None:
    """Change a large table online under writers and kills, and compare all rows; `-- --help` lists the options."""
    install(session, *group("test"))
    session.run("python", "-m", "benchmarks.online", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the engine with one raw SQL UPDATE of the same rows; `-- queues` measures the cost of queues."""
    install(session, *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)
