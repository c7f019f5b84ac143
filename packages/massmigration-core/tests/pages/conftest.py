"""Fixtures of the tests of the pages."""

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client

from testsupport import databases
from testsupport.browser_fixtures import chromium, has_admin, site, visit  # noqa: F401 - fixtures
from testsupport.factories import Slugs
from testsupport.inline_migrations import register


@pytest.fixture
def client(db_alias):
    """A client of a superuser."""
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


@pytest.fixture
def emptied(db_alias):
    """Empty every database after the test, and not only that of the test."""
    yield
    for alias in connections:
        databases.empty(alias)


@pytest.fixture
def slugs(settings, monkeypatch):
    """The migration `Slugs`, whose jobs no worker runs."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Slugs)
