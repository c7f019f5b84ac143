from functools import partial

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from massmigration import enforcement
from massmigration.enforcement import migration_is_applied, requires_migration
from massmigration.exceptions import BadMigrationFile, MigrationNotFound
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status

requires = partial(requires_migration, skip_in_tests=False)


@pytest.fixture
def broken(monkeypatch):
    """The key of a migration whose file cannot be used."""
    assert store.by_key
    monkeypatch.setitem(store.errors, "testapp:0001_broken", BadMigrationFile("It is broken."))
    return "testapp:0001_broken"


def answer():
    return 42


def make_record(db_alias, key):
    MigrationRecord.objects.using(db_alias).create(key=key, status=Status.APPLIED)


def test_an_unknown_migration_is_refused_at_the_first_call(db_alias):
    decorated = requires("testapp:0001_typo", db_aliases=[db_alias])(answer)

    with pytest.raises(MigrationNotFound, match=f"'testapp:0001_typo'.* on database '{db_alias}' either. Correct"):
        decorated()


def test_an_unknown_migration_is_a_value_error_as_it_was(db_alias):
    with pytest.raises(ValueError, match="testapp:0001_typo"):
        enforcement.get_migration_key("testapp:0001_typo")


def test_an_unknown_migration_is_refused_in_tests_without_a_query(db_alias):
    decorated = requires_migration("testapp:0001_typo", db_aliases=[db_alias])(answer)

    with CaptureQueriesContext(connections[db_alias]) as captured, pytest.raises(MigrationNotFound):
        decorated()

    assert len(captured) == 0


def test_a_deleted_file_passes_where_its_record_is_applied(db_alias):
    make_record(db_alias, "testapp:0001_deleted")
    decorated = requires("testapp:0001_deleted", db_aliases=[db_alias])(answer)

    assert [decorated(), decorated()] == [42, 42]
    assert migration_is_applied("testapp:0001_deleted", db_alias)


def test_a_file_that_cannot_be_used_passes_where_its_record_is_applied(db_alias, broken):
    decorated = requires(broken, db_aliases=[db_alias])(answer)

    with pytest.raises(BadMigrationFile, match="It is broken"):
        decorated()
    make_record(db_alias, broken)

    assert decorated() == 42


@pytest.mark.parametrize("identifier", ["once", "a:b:c", ("a",), ("a", "b", "c"), ("", "b"), "", ("a", 1)], ids=repr)
def test_what_cannot_name_a_migration_is_refused_when_it_is_written(identifier):
    with pytest.raises(MigrationNotFound, match=r"it must be \(app_label, name\) or 'app_label:name'"):
        requires_migration(identifier)


def test_migration_is_applied_refuses_what_is_unknown(db_alias):
    with pytest.raises(MigrationNotFound):
        migration_is_applied("testapp:0001_typo", db_alias)
