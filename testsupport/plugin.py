"""The pytest plugin of this repository, which starts and stops the servers, and selects and orders the tests."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from massmigration import pytest_plugin
from testsupport.database_servers import DATABASE_SERVERS, note_absence
from testsupport.process_guard import die_with_parent
from testsupport.processes import StartError
from testsupport.selection import is_on_mariadb_alone
from testsupport.services import (
    ROOT,
    Redis,
    Server,
    Unavailable,
    missing_server,
    remove_run_folder,
    run_folder,
)

SERVER_FIXTURES = {
    *("broker", "other_alias", "own_server", "postgresql", "rabbitmq_url", "redis_url", "server_alias", "v03_package")
}
"""Fixtures that need a server or the package index."""

_servers: dict[str, Server] = {}
_absent: dict[str, str] = {}
_left_out: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="run only tests that need no server and are not marked slow")
    parser.addoption("--all-on-mysql", action="store_true", help="run what testsupport/selection.py lists, too")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    # A wrapper, because pytest-django reads the settings in its own implementation of this hook.
    options = early_config.known_args_namespace
    early_config.add_cleanup(_stop)
    if _is_worker():
        die_with_parent(signal.SIGKILL)
    elif not (options.help or options.version or options.collectonly):
        _prepare()
        if not options.quick:
            _start_servers()
    if options.quick:
        for kind in DATABASE_SERVERS.values():
            os.environ.pop(kind.variable, None)
    return (yield)


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def _prepare() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["TEST_SQLITE_DIR"] = str(run_folder().make("sqlite"))
    os.environ["TEST_VENVS_DIR"] = str(run_folder().make("environments"))


def _start_servers() -> None:
    try:
        for alias, kind in DATABASE_SERVERS.items():
            try:
                _servers[alias] = kind()
            except Unavailable as error:
                _absent[alias] = missing_server(kind, error)
                note_absence(alias, _absent[alias])
        # All from this thread: a server ends with the thread that started it.
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
    remove_run_folder()


def pytest_configure(config: pytest.Config) -> None:
    from testsupport import fixtures

    # Registered late, so that its fixtures win over pytest-django's of the same name.
    config.pluginmanager.register(fixtures, "testsupport.fixtures")
    if not config.pluginmanager.hasplugin("massmigration"):  # installed before the package had an entry point
        config.pluginmanager.register(pytest_plugin, "massmigration")


def pytest_report_header(config: pytest.Config) -> list[str]:
    from testsupport import databases

    if config.option.quick:
        return ["--quick: SQLite alone, without servers"]
    lines = [
        f"{server.title}: {databases.server_version(alias)} ({server.source})" for alias, server in _servers.items()
    ]
    lines += [f"{DATABASE_SERVERS[alias].title}: its tests are skipped: {reason}" for alias, reason in _absent.items()]
    try:
        redis = Redis()
    except Unavailable as error:
        return [*lines, f"Redis: {error}"]
    return [*lines, f"Redis: {redis.version() or 'any version'} ({redis.source}), when a test asks for it"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave the thousands of tests out of garbage collection, which would look at all of them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run is not for; begin with the slow tests, so that no worker is left with one at the end."""
    reasons = {item: _why_left_out(item, config) for item in items}
    left_out = [item for item in items if reasons[item]]
    if left_out:
        _left_out.update(reasons[item] for item in left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not reasons[item]]
    _begin_with_slow(items, getattr(config, "workerinput", {}).get("workercount", 1))


def _why_left_out(item: Any, config: pytest.Config) -> str:
    """Return why a test is left out, or an empty string."""
    params = getattr(item, "callspec", None)
    aliases = {params.params.get(name) for name in ("db_alias", "server_alias")} if params else set()
    if "mysql" in aliases and not config.option.all_on_mysql and is_on_mariadb_alone(item.nodeid):
        return "run on MariaDB and not on MySQL (testsupport/selection.py says why)"
    return _why_not_quick(item, aliases) if config.option.quick else ""


def _why_not_quick(item: Any, aliases: set[Any]) -> str:
    if aliases & set(DATABASE_SERVERS) or SERVER_FIXTURES & set(item.fixturenames):
        return "need a server"
    return "are slow" if item.get_closest_marker("slow") else ""


def _begin_with_slow(items: list[pytest.Item], workers: int) -> None:
    """Put slow tests at the beginning of what pytest-xdist gives to each worker first; keep modules together."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    by_module: dict[Any, list[pytest.Item]] = {}
    for item in slow:
        by_module.setdefault(item.path, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for module in sorted(by_module.values(), key=len, reverse=True):
        min(shares, key=len).extend(module)
    # LoadScheduling of pytest-xdist begins with a share of this size for each worker.
    size = max(len(items) // (4 * workers), 2)
    items.clear()
    for share in shares:
        room = max(size - len(share), 0)
        items += [*share[:size], *others[:room]]
        del others[:room]
    items += [item for share in shares for item in share[size:]] + others


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if not _left_out:  # each worker has collected the same tests
        _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(_left_out.items()))
        terminalreporter.write_line(f"Left out {_left_out.total()} tests: {counts}.", yellow=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which no test was run."""
    if _is_worker():
        session.config.workeroutput["left_out"] = dict(_left_out)
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or session.config.option.collectonly:
        return
    if not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
