"""The cost of finding out, on a new database, that migrations have nothing to do there."""

import contextlib

import pytest
from django.apps import apps
from django.db import connections
from django.test.utils import CaptureQueriesContext

from massmigration import fresh_database
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from testsupport import gate_project


class Mapper(MapperMigration):
    def get_queryset(self, db_alias):
        return apps.get_model("gated", "Parcel").objects.filter(cents=None)

    def operation(self, obj, db_alias):
        raise AssertionError(obj)


@pytest.fixture
def project(db_alias):
    yield from gate_project.project(db_alias)


@pytest.fixture
def counted(monkeypatch):
    """The number of queries of each call of `apply`."""
    counts, apply = [], fresh_database.apply

    def apply_counted(db_alias):
        with CaptureQueriesContext(connections[db_alias]) as queries:
            told = apply(db_alias)
        counts.append(len(queries))
        return told

    monkeypatch.setattr(fresh_database, "apply", apply_counted)
    return counts


def test_a_mapper_costs_one_query_and_its_savepoint(project, counted):
    mappers = [type("Migration", (Mapper,), {})("gated", f"{number:04}_more") for number in range(100, 150)]

    project.migrate()
    project.execute("DROP TABLE gated_parcel")
    alone = counted.pop()
    for table in ("massmigration_migrationrecord", "massmigration_event"):
        project.execute(f"DELETE FROM {table}")
    project.execute("DELETE FROM django_migrations WHERE app = 'gated'")
    with contextlib.ExitStack() as stack:
        for mapper in mappers:
            stack.enter_context(store.registered(mapper))
        project.migrate()

    assert {project.statuses[mapper.key] for mapper in mappers} == {"applied"}
    few = 10  # the records and events of many are written in more than one statement
    assert counted.pop() - alone <= 3 * len(mappers) + few


class WithoutRecords:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "massmigration"


class WithoutParcels:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "gated"


def test_a_database_that_is_to_have_no_records_is_migrated(project, settings):
    settings.DATABASE_ROUTERS = [WithoutRecords()]

    for _ in range(2):
        project.migrate()

    assert project.columns["cents"] is False


@pytest.fixture
def once(monkeypatch):
    """A migration that is done once, and depends on nothing."""
    migration = store.get("gated:0002_first_parcel")
    monkeypatch.setattr(migration, "dependencies", [], raising=False)
    monkeypatch.setattr(migration, "operation", lambda db_alias: None, raising=False)
    return migration


def test_nothing_is_run_for_an_app_that_is_elsewhere(project, settings, once):
    settings.DATABASE_ROUTERS = [WithoutParcels()]

    for _ in range(2):
        project.migrate()

    assert project.statuses == {}


def test_what_the_routers_keep_away_is_not_foreseen_to_be_made(project, settings, once):
    settings.DATABASE_ROUTERS = [WithoutParcels()]
    fresh_database.begin(project.db_alias, [])

    assert fresh_database.nothing_to_do_reason(once, project.db_alias, with_queries=False) == ""


def test_nothing_is_run_for_an_app_whose_table_is_not_found(project, once):
    project.migrate()
    project.execute("DROP TABLE gated_parcel")
    project.execute("DELETE FROM massmigration_migrationrecord")

    project.migrate()

    assert project.statuses == {}
