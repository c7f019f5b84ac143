"""Fixtures for the tests of all packages: a database on each engine, and Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connections

from massmigration import required_by
from testsupport import databases
from testsupport.plugin import missing_server, reason_of_absence, run_folder
from testsupport.predecessor import HISTORY, OldProject, install, other_database
from testsupport.rabbitmq import RabbitMQ
from testsupport.services import Redis, Unavailable

SERVERS = ["postgresql", "mariadb"]


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> Iterator[None]:
    """Makes and migrates a database on every alias, once in each worker of pytest-xdist."""
    with django_db_blocker.unblock():
        for alias in connections:
            databases.create(alias)
    yield
    with django_db_blocker.unblock():
        for alias in connections:
            databases.drop(alias)


@pytest.fixture(autouse=True)
def nothing_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what decorated functions of test modules require: checks would list it in other modules' tests."""
    monkeypatch.setattr(required_by, "_by_code", set())


@pytest.fixture(params=[pytest.param("default", id="sqlite"), *SERVERS])
def db_alias(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    """Opens one database after the other to the test, each empty; threads and other processes see what it commits."""
    yield from _opened(request, django_db_blocker)


@pytest.fixture(params=SERVERS)
def server_alias(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    """As `db_alias`, for what SQLite cannot do."""
    yield from _opened(request, django_db_blocker)


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


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Starts Redis when first asked for, one for each worker of pytest-xdist; on a given one each has its database."""
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
    """Starts RabbitMQ when first asked for, one for each worker of pytest-xdist; a given one is shared by them."""
    try:
        server = RabbitMQ()
    except Unavailable as error:
        pytest.skip(missing_server(RabbitMQ, error))
    yield server.start(run_folder())
    server.stop()


@pytest.fixture(scope="session")
def predecessor() -> Path:
    """Installs django-mass-migration 0.3.9, once in each worker of pytest-xdist."""
    return install(run_folder())


@pytest.fixture
def old_project(db_alias: str, predecessor: Path) -> Iterator[OldProject]:
    """A project with a database of its own, which `db_alias` stands for: set up, and used, with the predecessor."""
    with other_database(db_alias):
        project = OldProject(db_alias, predecessor)
        project.run_old("set_up", *HISTORY)
        yield project
