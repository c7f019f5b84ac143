"""Conversion of tables and records that the real django-mass-migration 0.3.9 has made."""

import importlib
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.recorder import MigrationRecorder

from massmigration import api, v03_records
from massmigration.migrations import _old_records
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status

ASIDE = "massmigration_old_records"
WITHOUT_INDEXES = {"massmigration_migrationrecord", "massmigration_switch"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def tables(db_alias):
    return set(connections[db_alias].introspection.table_names())


def execute(db_alias, sql):
    with connections[db_alias].cursor() as cursor:
        cursor.execute(sql)


def migrate(db_alias, *arguments, **options):
    call_command("migrate", "massmigration", *arguments, database=db_alias, verbosity=0, **options)


def statuses(db_alias):
    return dict(MigrationRecord.objects.using(db_alias).values_list("key", "status"))


CONVERTED = {
    "shop:0001_simple": Status.APPLIED,
    "shop:0005_broken": Status.FAILED,
    "shop:0006_for_ever": Status.CANCELLED,
    "shop:0007_fails": Status.FAILED,
}


def test_records_keep_what_they_say(db_alias, v03_project):
    before = v03_project.run_old("describe")["records"]

    migrate(db_alias)

    records = {record.key: record for record in MigrationRecord.objects.using(db_alias)}
    assert {key: record.status for key, record in records.items()} == CONVERTED
    assert {key: str(record.attempt_uuid) for key, record in records.items()} == {
        key: old["attempt"] for key, old in before.items()
    }
    assert {key: str(record.initiated_at) for key, record in records.items()} == {
        key: old["initiated_at"] for key, old in before.items()
    }
    assert {key: record.last_error for key, record in records.items()} == {
        key: old["last_error"] for key, old in before.items()
    }
    applied = records["shop:0001_simple"]
    assert str(applied.applied_at) == before["shop:0001_simple"]["applied_at"]
    assert [applied.app_label, applied.name] == ["shop", "0001_simple"]


def test_each_has_an_event(db_alias, v03_project):
    migrate(db_alias)

    events = {event.key: event for event in Event.objects.using(db_alias)}
    assert {key: (event.verb, event.actor, event.to_status) for key, event in events.items()} == {
        key: ("convert", "command:migrate", status) for key, status in CONVERTED.items()
    }
    assert "is_applied and has_error. It failed on some objects" in events["shop:0005_broken"].detail
    assert "neither is_applied nor has_error" in events["shop:0006_for_ever"].detail


def test_the_old_table_is_gone(db_alias, v03_project):
    migrate(db_alias)

    assert ASIDE not in tables(db_alias)
    assert "massmigration_shardrecord" in tables(db_alias)


def test_migrate_with_fake_initial_converts_too(db_alias, v03_project):
    migrate(db_alias, fake_initial=True)

    assert statuses(db_alias) == CONVERTED


def take_for_ours(db_alias):
    """Record a project's own first migration, set in MIGRATION_MODULES, which has the name of ours."""
    MigrationRecorder(connections[db_alias]).record_applied("massmigration", "0001_initial")


def test_a_table_that_the_projects_own_migration_has_made_is_converted(db_alias, v03_project):
    take_for_ours(db_alias)

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED
    assert Event.objects.using(db_alias).count() == len(CONVERTED)
    assert ASIDE not in tables(db_alias)
    assert indexed(db_alias) >= {*_old_records.NEW_TABLES} - WITHOUT_INDEXES
    call_command("migrate", "massmigration", database=db_alias, check_unapplied=True, verbosity=0)


def indexed(db_alias):
    """Return the tables of the records that have an index beside that of the primary key."""
    introspection = connections[db_alias].introspection
    with connections[db_alias].cursor() as cursor:
        found = {table: introspection.get_constraints(cursor, table) for table in _old_records.NEW_TABLES}
    known = {table: [each for each in found[table].values() if not each["primary_key"]] for table in found}
    return {table for table in known if any(each["index"] for each in known[table])}


@pytest.mark.parametrize("step", ["commit", "MakeUp"])
def test_an_interrupted_conversion_of_such_a_table_is_made_up_for(db_alias, v03_project, monkeypatch, step):
    take_for_ours(db_alias)
    with monkeypatch.context() as patch:
        if step == "commit":
            patch.setattr(_old_records, "_drop", interrupted_before_the_last_drop)
        else:
            interrupt_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            migrate(db_alias)
    connections[db_alias].close()

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED
    assert indexed(db_alias) >= {*_old_records.NEW_TABLES} - WITHOUT_INDEXES


def test_going_back_and_forth_does_no_harm(db_alias, v03_project):
    migrate(db_alias)
    migrate(db_alias, "zero")
    migrate(db_alias)

    assert statuses(db_alias) == {}


@pytest.mark.parametrize(
    "step", ["_set_aside", "_drop", "_convert", "SetOldRecordsAside.step", "ConvertOldRecords.step", "CreateModel"]
)
def test_an_interrupted_conversion_is_made_up_for(db_alias, v03_project, monkeypatch, step):
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            migrate(db_alias)
    connections[db_alias].close()

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED
    assert Event.objects.using(db_alias).count() == len(CONVERTED)
    assert ASIDE not in tables(db_alias)


def test_rows_that_were_converted_before_an_interruption_are_not_converted_again(db_alias, v03_project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_old_records, "_drop", interrupted_before_the_last_drop)
        with pytest.raises(KeyboardInterrupt):
            migrate(db_alias)
    connections[db_alias].close()

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED
    assert Event.objects.using(db_alias).count() == len(CONVERTED)


def interrupted_before_the_last_drop(schema_editor, table):
    if table == ASIDE:
        raise KeyboardInterrupt
    schema_editor.execute(f"DROP TABLE {table}")


def interrupt_after(patch, step):
    """Raise KeyboardInterrupt after `step`; for CreateModel, after the third."""
    if step == "CreateModel":
        target, name, left = importlib.import_module("django.db.migrations").CreateModel, "database_forwards", 3
    elif step == "MakeUp":
        target, name, left = BaseDatabaseSchemaEditor, "create_model", 3
    else:
        *owner, name = step.split(".")
        target, left = getattr(_old_records, owner[0]) if owner else _old_records, 1
    original = getattr(target, name)
    calls = []

    def interrupted(*args):
        original(*args)
        calls.append(1)
        if len(calls) == left:
            raise KeyboardInterrupt

    patch.setattr(target, name, interrupted)


def test_a_conversion_that_fails_changes_nothing_where_ddl_is_rolled_back(db_alias, v03_project, monkeypatch):
    if not connections[db_alias].features.can_rollback_ddl:
        pytest.skip("DDL is not rolled back here.")
    monkeypatch.setattr(v03_records, "status_of", lambda row: 1 / 0)
    before = tables(db_alias)

    with pytest.raises(ZeroDivisionError):
        migrate(db_alias)

    assert tables(db_alias) == before
    assert set(v03_project.run_old("describe")["records"]) == set(CONVERTED)


def test_two_old_tables_are_refused(db_alias, v03_project):
    execute(db_alias, f"CREATE TABLE {ASIDE} AS SELECT * FROM massmigration_migrationrecord")

    with pytest.raises(CommandError, match="Both tables massmigration_migrationrecord and massmigration_old_records"):
        migrate(db_alias)


def test_an_old_table_that_was_made_again_meanwhile_is_dropped(db_alias, v03_project):
    execute(db_alias, f"CREATE TABLE {ASIDE} AS SELECT * FROM massmigration_migrationrecord")
    execute(db_alias, "DELETE FROM massmigration_migrationrecord")

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED


def test_older_tables_without_some_columns_are_converted(db_alias, v03_project):
    for column in ("was_faked", "attempt_uuid"):
        execute(db_alias, f"ALTER TABLE massmigration_migrationrecord DROP COLUMN {column}")

    migrate(db_alias)

    assert statuses(db_alias) == CONVERTED


def test_a_database_that_must_not_have_the_records_is_left_alone(db_alias, v03_project, settings):
    settings.DATABASE_ROUTERS = [NotHere()]

    migrate(db_alias)

    assert not {ASIDE, "massmigration_event"} & tables(db_alias)
    assert set(v03_project.run_old("describe")["records"]) == set(CONVERTED)


class NotHere:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "massmigration"


def test_the_operations_are_not_written_as_sql(db_alias):
    for name in ("0001", "0002"):
        out = StringIO()

        call_command("sqlmigrate", "massmigration", name, database=db_alias, stdout=out)

        assert "THIS OPERATION CANNOT BE WRITTEN AS SQL" in out.getvalue()


def test_a_fresh_database_has_no_trace_of_it(db_alias):
    assert ASIDE not in tables(db_alias)
    assert not Event.objects.using(db_alias).exists()


def test_the_first_migration_sets_aside_first_and_converts_last():
    operations = importlib.import_module("massmigration.migrations.0001_initial").Migration.operations

    assert type(operations[0]) is _old_records.SetOldRecordsAside
    assert type(operations[-1]) is _old_records.ConvertOldRecords


def test_there_is_nothing_to_migrate(db_alias):
    call_command("makemigrations", "massmigration", check=True, dry_run=True, verbosity=0)


def test_a_converted_record_can_be_forgotten(db_alias, v03_project):
    migrate(db_alias)

    api.forget("shop:0006_for_ever", db_alias)

    assert "shop:0006_for_ever" not in statuses(db_alias)


def test_a_table_without_the_old_columns_is_left_to_django(db_alias, v03_project):
    execute(db_alias, "DROP TABLE massmigration_migrationrecord")
    execute(db_alias, "CREATE TABLE massmigration_migrationrecord (something integer)")
    execute(db_alias, "INSERT INTO massmigration_migrationrecord VALUES (1)")

    with pytest.raises(DatabaseError, match="exists"):
        migrate(db_alias)
