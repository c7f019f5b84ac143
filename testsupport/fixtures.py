"""Fixtures for the tests of all packages: a database on each engine, and Redis."""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connections

from massmigration import conf, record_cache
from massmigration.dialects.sqlite import SQLiteDialect
from massmigration.enforcement import registry
from testsupport import databases
from testsupport.database_servers import DATABASE_SERVERS, DatabaseServer, reason_of_absence
from testsupport.processes import RunFolder
from testsupport.rabbitmq import RabbitMQ
from testsupport.recovery_rounds import RecoveryRounds
from testsupport.services import Redis, Unavailable, missing_server, run_folder
from testsupport.v03_versions import History, V03Project, install

SERVERS = list(DATABASE_SERVERS)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> Iterator[None]:
    """Create and migrate a database on every alias, once in each worker of pytest-xdist."""
    with django_db_blocker.unblock():
        for alias in connections:
            databases.create(alias)
    yield
    with django_db_blocker.unblock():
        for alias in connections:
            databases.drop(alias)


@pytest.fixture(autouse=True)
def nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests require, and the settings that they have registered, both of which checks would list."""
    monkeypatch.setattr(registry, "_by_code", set())
    monkeypatch.setattr(conf, "_registered", conf.registered())


@pytest.fixture(autouse=True)
def nothing_is_cached() -> Iterator[None]:
    """Forget which migrations other tests have found to be applied."""
    record_cache.clear()
    yield
    record_cache.clear()


@pytest.fixture(autouse=True)
def batches_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep batches in this process from ending early because the machine is busy or a test blocks them."""
    monkeypatch.setattr(settings, "MASSMIGRATION_BATCH_DURATION", dt.timedelta(minutes=1), raising=False)
    monkeypatch.setattr(SQLiteDialect, "max_batch_duration", dt.timedelta(minutes=1))


@pytest.fixture(params=[pytest.param("default", id="sqlite"), *SERVERS])
def db_alias(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    """Open one database after the other to the test, each empty. Threads and other processes see its commits."""
    yield from _opened(request, django_db_blocker)


@pytest.fixture(params=SERVERS)
def server_alias(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    """Do the same as `db_alias`, but without SQLite."""
    yield from _opened(request, django_db_blocker)


@pytest.fixture
def other_alias(db_alias: str) -> str:
    """Return the alias of another database than `db_alias`."""
    others = [alias for alias in connections if alias != db_alias]
    if not others:
        pytest.skip("There is no other database.")
    return others[0]


@pytest.fixture
def postgresql() -> str:
    """Return the alias of PostgreSQL, for a test that uses no database on which `db_alias` runs it."""
    if "postgresql" not in settings.DATABASES:
        pytest.skip(reason_of_absence("postgresql"))
    return "postgresql"


def _opened(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    alias = request.param
    if alias not in settings.DATABASES:
        pytest.skip(reason_of_absence(alias))
    request.getfixturevalue("django_db_setup")
    with django_db_blocker.unblock():
        yield alias
        # What users and sessions need is on "default", whichever database a test is about.
        for used in dict.fromkeys([alias, "default"]):
            databases.empty(used)


@pytest.fixture(params=SERVERS)
def own_server(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, DatabaseServer]]:
    """Start a durable server that the test may kill. Return the alias that stands for it, and the server."""
    alias, kind = request.param, DATABASE_SERVERS[request.param]
    monkeypatch.delenv(kind.variable, raising=False)
    try:
        server = kind(is_durable=True)
    except Unavailable as error:
        pytest.skip(missing_server(kind, error))
    folder = RunFolder()
    monkeypatch.setenv(kind.variable, server.start(folder))
    connections[alias].close()
    given = connections.databases[alias]
    parts = urlsplit(server.url)
    with pytest.MonkeyPatch.context() as patch, django_db_blocker.unblock():
        for name, value in {"HOST": parts.hostname, "PORT": parts.port, "USER": parts.username, "PASSWORD": ""}.items():
            patch.setitem(given, name, value)
        try:
            databases.create(alias)
            yield alias, server
        finally:
            connections[alias].close()
            server.stop()
            folder.remove()


@pytest.fixture
def recovery_rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecoveryRounds]:
    """Replace recovery by rounds that follow each other at once, in which the test decides what happens."""
    rounds = RecoveryRounds()
    monkeypatch.setattr("massmigration.backends.recovery.PAUSE", 0.01)
    monkeypatch.setattr("massmigration.worker.recover", rounds.recover)
    yield rounds
    rounds.end()


@pytest.fixture
def rng(record_property: Any) -> random.Random:
    """Return a random number generator; `-p randomly_seed=...`, from the run's header, repeats its numbers."""
    seed = random.getrandbits(32)  # pytest-randomly has seeded it
    record_property("seed", seed)
    return random.Random(seed)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Start Redis, one for each worker of pytest-xdist. On a given server, each worker has a database."""
    try:
        server = Redis()
    except Unavailable as error:
        pytest.skip(missing_server(Redis, error))
    url = server.start(run_folder())
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    yield f"{url.rstrip('/')}/{worker}" if urlsplit(url).path in ("", "/") else url
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """Start RabbitMQ, one for each worker of pytest-xdist. A given server is shared by the workers."""
    try:
        server = RabbitMQ()
    except Unavailable as error:
        pytest.skip(missing_server(RabbitMQ, error))
    yield server.start(run_folder())
    server.stop()


@pytest.fixture(scope="session")
def v03_package() -> Path:
    """Install django-mass-migration 0.3.9 into a folder, once in each worker of pytest-xdist."""
    return install(run_folder())


@pytest.fixture(scope="session")
def v03_history(v03_package: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[History]:
    """Use django-mass-migration on each database, once in each worker of pytest-xdist."""
    history = History(v03_package)
    yield history
    with django_db_blocker.unblock():
        history.drop()


@pytest.fixture
def v03_project(db_alias: str, v03_history: History) -> Iterator[V03Project]:
    """Return a project set up and used with django-mass-migration, in a database of its own that `db_alias` names."""
    with v03_history.project(db_alias) as project:
        yield project
