"""The functions of `api` and the exceptions that django-mass-migration had."""

import pytest

from massmigration import api, exceptions
from massmigration.enforcement import requires_migration
from massmigration.loader import store
from massmigration.migrations import SimpleMigration
from massmigration.models import MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, register


class Once(SimpleMigration):
    error = None

    def operation(self, db_alias):
        if self.error:
            raise self.error


@pytest.fixture
def migration(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    return store.by_key[register(monkeypatch, Once)]


def answers(migration, db_alias):
    return {
        "can start": api.can_start_migration(migration, db_alias),
        "was started": api.migration_was_started(migration, db_alias),
        "in progress": api.migration_is_in_progress(migration, db_alias),
        "applied": api.migration_is_applied(migration, db_alias),
    }


def yes(migration, db_alias):
    return {question for question, answer in answers(migration, db_alias).items() if answer}


def test_one_that_was_never_launched_can_be_started(db_alias, migration):
    assert yes(migration, db_alias) == {"can start"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.QUEUED, {"was started", "in progress"}),
        (Status.RUNNING, {"was started", "in progress"}),
        (Status.PAUSED, {"was started", "in progress"}),
        (Status.FAILED, {"was started", "can start"}),
        (Status.CANCELLED, {"was started", "can start"}),
        (Status.APPLIED, {"was started", "applied"}),
    ],
)
def test_every_status_has_its_answers(db_alias, migration, status, expected):
    MigrationRecord.objects.using(db_alias).create(key=migration.key, status=status)

    assert yes(migration, db_alias) == expected


def test_initiate_launches(db_alias, migration):
    api.initiate_migration(migration, db_alias)

    assert api.migration_is_applied(migration, db_alias)


def test_initiate_retries_what_has_failed(db_alias, migration):
    migration.error = ValueError("not yet")
    api.initiate_migration(migration, db_alias)
    assert MigrationRecord.objects.using(db_alias).get().has_error
    migration.error = None

    api.initiate_migration(migration, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().is_applied


def test_initiate_refuses_what_is_in_progress(db_alias, migration):
    MigrationRecord.objects.using(db_alias).create(key=migration.key, status=Status.RUNNING)

    with pytest.raises(exceptions.MigrationAlreadyStarted, match="already running"):
        api.initiate_migration(migration, db_alias)


def test_all_migrations_are_those_of_the_store():
    assert [migration.key for migration in api.get_all_migrations()] == [migration.key for migration in store.all]


def test_a_dependency_is_refused_by_its_old_name(db_alias, migration):
    migration.dependencies = [("testapp", "0001_once")]

    with pytest.raises(exceptions.DependentMigrationNotApplied, match="depends on 'testapp:0001_once'"):
        api.launch(migration.key, db_alias)


def test_the_old_base_catches_everything(db_alias, migration):
    migration.allowed_db_aliases = []

    with pytest.raises(exceptions.MigrationError):
        api.launch(migration.key, db_alias)


def test_a_requirement_on_a_database_that_is_not_allowed_is_refused_by_its_old_name():
    @requires_migration(("testapp", "0001_once"), db_aliases=["nowhere"])
    def needy():
        pass

    with pytest.raises(exceptions.DbAliasNotAllowed):
        needy()


def test_a_requirement_that_is_not_met_is_refused_by_its_old_name(db_alias, migration):
    @requires_migration(migration.key, db_aliases=[db_alias], skip_in_tests=False)
    def needy():
        pass

    with pytest.raises(exceptions.RequiredMigrationNotApplied):
        needy()


def test_a_record_has_its_old_names(db_alias, migration):
    api.initiate_migration(migration, db_alias)

    record = migration.get_migration_record(db_alias)

    assert record.attempt_uuid == record.attempt_id
    assert (record.app_label, record.name) == ("testapp", "9000_adhoc")
    assert record.initiated_at == record.launched_at <= record.applied_at
    assert (record.is_applied, record.has_error, record.in_progress) == (True, False, False)
    assert MigrationRecord.key_from_name_tuple(("testapp", "9000_adhoc")) == record.key
