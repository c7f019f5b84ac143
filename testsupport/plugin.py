"""The pytest plugin of this repository: starts the servers before Django's settings are read, and ends them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testsupport.guard import die_with_parent
from testsupport.processes import RunFolder, StartError
from testsupport.rabbitmq import RabbitMQ
from testsupport.services import MariaDB, PostgreSQL, Redis, Server, Unavailable

ROOT = Path(__file__).parent.parent
ALIASES: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}
OPTIONAL: set[type[Server]] = {MariaDB, RabbitMQ}

_run: RunFolder | None = None
_servers: dict[str, Server] = {}
_absent: dict[str, str] = {}


def run_folder() -> RunFolder:
    """Returns this process' temporary folder, made when first asked for."""
    global _run
    _run = _run or RunFolder()
    return _run


def missing_server(kind: type[Server], error: Unavailable) -> str:
    """Returns why tests of this server are skipped, unless they must not be."""
    policy = os.environ.get("MM_TEST_SERVICES", "")
    if policy == "skip" or (kind in OPTIONAL and policy != "require"):
        return str(error)
    raise pytest.UsageError(f"{error} MM_TEST_SERVICES=skip skips its tests.")


def reason_of_absence(alias: str) -> str:
    """Returns why an alias is not among the databases; asked in workers of pytest-xdist too."""
    try:
        ALIASES[alias]()
    except Unavailable as error:
        return str(error)
    return f"{alias} has not been started."


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    # A wrapper, because pytest-django reads the settings in its own implementation of this hook.
    options = early_config.known_args_namespace
    early_config.add_cleanup(_stop)
    if _is_worker():
        die_with_parent(signal.SIGKILL)
    elif not (options.help or options.version or options.collectonly):
        _start()
    return (yield)


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def _start() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["TEST_SQLITE_DIR"] = str(run_folder().make("sqlite"))
    os.environ["TEST_VENVS_DIR"] = str(run_folder().make("environments"))
    for alias, kind in ALIASES.items():
        try:
            _servers[alias] = kind()
        except Unavailable as error:
            _absent[alias] = missing_server(kind, error)
    try:
        # Side by side, but all from this thread: a server's life is tied to the thread that starts it.
        for server in _servers.values():
            server.prepare(run_folder())
        for server in _servers.values():
            server.launch()
        for server in _servers.values():
            server.wait()
            os.environ[server.variable] = server.url
    except StartError as error:
        raise pytest.UsageError(str(error)) from error


def _stop() -> None:
    for server in _servers.values():
        server.stop()
    if _run:
        _run.remove()


def pytest_configure(config: pytest.Config) -> None:
    from testsupport import fixtures

    # Registered late, so that its fixtures win over pytest-django's of the same name.
    config.pluginmanager.register(fixtures, "testsupport.fixtures")


def pytest_report_header() -> list[str]:
    from testsupport import databases

    lines = [
        f"{server.title}: {databases.server_version(alias)} ({server.source})" for alias, server in _servers.items()
    ]
    lines += [f"{ALIASES[alias].title}: its tests are skipped: {reason}" for alias, reason in _absent.items()]
    try:
        redis = Redis()
    except Unavailable as error:
        return [*lines, f"Redis: {error}"]
    return [*lines, f"Redis: {redis.version() or 'any version'} ({redis.source}), when a test asks for it"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which nothing was tested is not a success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _is_worker() or exitstatus != pytest.ExitCode.OK or session.config.option.collectonly:
        return
    if not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
