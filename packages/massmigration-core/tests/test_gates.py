import dataclasses
import io
import shutil
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.core.exceptions import FieldError
from django.core.management import CommandError, call_command
from django.db import connections, migrations
from django.db.migrations.writer import MigrationWriter

from massmigration import api, fresh_database
from massmigration.definitions.stages import OnceStage
from massmigration.exceptions import GateClosed, RequiredMigrationNotApplied
from massmigration.gates import RequireMassMigration
from massmigration.loader import store
from massmigration.models import MigrationRecord
from testsupport import gate_project
from testsupport.gate_project import COLUMN, GATED, KEY

NOT_NULL = "0003_cents_not_null"
ALL = ["0001_initial", "0002_cents", NOT_NULL]
GATE = GATED.operations[0]


@pytest.fixture
def project(db_alias):
    yield from gate_project.project(db_alias)


@pytest.fixture
def used(project):
    """A project migrated up to the nullable column, with rows whose column is empty."""
    project.migrate("massmigration")
    project.migrate("gated", "0002_cents")
    assert project.statuses == {KEY: "applied"}
    MigrationRecord.objects.using(project.db_alias).all().delete()
    project.add_parcels(3)
    return project


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(GATE, "run_inline_up_to", 3)
    monkeypatch.setattr(GATED, "atomic", False)


def test_a_closed_gate_stops_migrate_and_an_applied_migration_opens_it(used):
    with pytest.raises(GateClosed) as caught:
        used.migrate()

    assert str(caught.value) == (
        f"Schema migration gated.{NOT_NULL} requires mass migration '{KEY}' to be applied on database "
        f"'{used.db_alias}': it has not been run. Run, in this order:\n"
        f"    manage.py massmigrate gated 0001_cents --database {used.db_alias}\n"
        f"    manage.py migrate --database {used.db_alias}\n"
        "Nothing was changed."
    )
    assert used.columns["cents"]
    used.massmigrate("gated", "0001_cents")
    used.migrate()
    assert (used.applied, used.columns["cents"], used.cents) == (ALL, False, [150] * 3)


def test_it_stops_before_anything_changes_and_says_what_comes_first(project):
    project.migrate("gated", "0001_initial")
    project.add_parcels(1)

    with pytest.raises(CommandError) as caught:
        project.migrate()

    assert project.applied == ["0001_initial"]
    assert str(caught.value).split("Run, in this order:\n")[1].split("\n")[:4] == [
        f"    manage.py {command} --database {project.db_alias}"
        for command in ("migrate massmigration", "migrate gated 0002_cents", "massmigrate gated 0001_cents", "migrate")
    ]


def test_it_says_how_far_the_migration_is(used, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, used.db_alias)
    api.pause(KEY, used.db_alias)

    with pytest.raises(RequiredMigrationNotApplied, match=r"it is paused\. Run, in"):
        used.migrate()


def test_without_the_look_at_the_plan_the_operation_itself_stops(used, monkeypatch):
    monkeypatch.setattr("massmigration.gates.guard", lambda *args: None)

    with pytest.raises(GateClosed, match="A schema migration of app 'gated' requires"):
        used.migrate()

    assert NOT_NULL not in used.applied


def test_an_empty_database_passes(project):
    project.migrate()

    assert (project.applied, project.columns["cents"]) == (ALL, False)
    assert project.statuses == {KEY: "applied", "gated:0002_first_parcel": "applied"}


def test_a_table_that_is_merely_empty_does_not_pass(project):
    project.migrate("gated", "0002_cents")

    with pytest.raises(GateClosed):
        project.migrate()


def test_with_the_setting_off_a_fresh_database_is_as_any_other(project, settings):
    settings.MASSMIGRATION_APPLY_ON_FRESH_DATABASE = False

    with pytest.raises(GateClosed):
        project.migrate()


@pytest.mark.parametrize("begins_at", ["0001_initial", "0002_cents"])
def test_few_rows_are_done_inline(project, inline, begins_at):
    project.migrate("massmigration")
    project.migrate("gated", begins_at)
    MigrationRecord.objects.using(project.db_alias).all().delete()
    project.add_parcels(3)

    project.migrate()

    assert (project.applied, project.statuses[KEY]) == (ALL, "applied")
    assert set(project.cents) - {1} == {150}


@pytest.mark.parametrize("is_ending", [True, False])
def test_what_rounds_off_the_rows_is_none_to_count(used, inline, monkeypatch, is_ending):
    migration = store.get(KEY)
    stages = [*migration.get_stages(), OnceStage(name=KEY, operation=lambda db_alias: None, is_ending=is_ending)]
    monkeypatch.setattr(migration, "get_stages", lambda: stages)

    if is_ending:
        used.migrate()
    else:
        with pytest.raises(GateClosed, match="the rows that are left cannot be counted"):
            used.migrate()

    assert (used.applied[-1] == NOT_NULL) is is_ending


def test_a_queryset_that_raises_closes_the_gate(used, inline, monkeypatch):
    monkeypatch.setattr(store.get(KEY), "get_queryset", parcels_by_a_field_that_is_gone)

    with pytest.raises(GateClosed, match=r"the rows that are left cannot be counted \(FieldError: Cannot resolve"):
        used.migrate()

    assert NOT_NULL not in used.applied


def parcels_by_a_field_that_is_gone(db_alias):
    return apps.get_model("gated", "Parcel").objects.filter(pennies=None)


def raise_value_error(db_alias):
    raise ValueError("No network.")


def raise_field_error(db_alias):
    raise FieldError("No such field.")


def fail_in_the_database(db_alias):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM gated_parcel WHERE pennies IS NULL")


COUNTS = [raise_value_error, raise_field_error, fail_in_the_database, lambda db_alias: None]


@pytest.mark.parametrize("count", COUNTS, ids=["value", "field", "database", "none"])
def test_a_count_that_raises_closes_the_gate(used, inline, monkeypatch, count):
    monkeypatch.setattr(store.get(KEY), "get_stages", stages_with(count))

    with pytest.raises(GateClosed, match=r"it has not been run; the rows that are left cannot be counted \(\w+: "):
        used.migrate()

    assert NOT_NULL not in used.applied


def test_a_count_that_raises_does_not_spoil_the_transaction_of_the_schema_migration(used, monkeypatch):
    monkeypatch.setattr(GATE, "run_inline_up_to", 3)
    monkeypatch.setattr("massmigration.gates.guard", lambda *args: None)
    monkeypatch.setattr(store.get(KEY), "get_stages", stages_with(fail_in_the_database))

    with pytest.raises(GateClosed, match="the rows that are left cannot be counted"):
        used.migrate()


def test_stages_that_cannot_be_had_close_the_gate(used, inline, monkeypatch):
    monkeypatch.setattr(store.get(KEY), "get_stages", lambda: raise_value_error(""))

    with pytest.raises(GateClosed, match=r"the rows that are left cannot be counted \(ValueError: No network\.\)"):
        used.migrate()


def stages_with(remaining):
    (stage,) = store.get(KEY).get_stages()
    return lambda: [dataclasses.replace(stage, remaining=remaining)]


@pytest.mark.parametrize("is_ending", [True, False])
def test_what_rounds_off_has_nothing_to_do_on_a_fresh_database(project, monkeypatch, is_ending):
    called = []
    migration = store.get(KEY)
    stages = [*migration.get_stages(), OnceStage(name=KEY, operation=called.append, is_ending=is_ending)]
    monkeypatch.setattr(migration, "get_stages", lambda: stages)

    project.migrate()

    assert project.statuses[KEY] == "applied"
    assert called == ([] if is_ending else [project.db_alias])


@pytest.mark.parametrize("begins_at", ["0001_initial", "0002_cents"])
def test_more_rows_are_not(project, inline, begins_at):
    project.migrate("massmigration")
    project.migrate("gated", begins_at)
    MigrationRecord.objects.using(project.db_alias).all().delete()
    project.add_parcels(4)

    with pytest.raises(GateClosed, match=r"more than 3 rows left|the rows that are left cannot"):
        project.migrate()

    assert project.applied[-1] == begins_at


def test_in_a_transaction_nothing_is_done_inline(used, inline, monkeypatch):
    monkeypatch.setattr(GATED, "atomic", True)

    with pytest.raises(GateClosed, match="set atomic = False on the schema migration"):
        used.migrate()


def test_what_an_operator_paused_is_not_run_inline(used, inline, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, used.db_alias)
    api.pause(KEY, used.db_alias)

    with pytest.raises(GateClosed, match="it is paused"):
        used.migrate()


def test_an_interrupted_inline_run_goes_on_at_the_next_migrate(used, inline, monkeypatch):
    migration = store.get(KEY)
    monkeypatch.setattr(migration, "operation", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        used.migrate()
    monkeypatch.undo()
    monkeypatch.setattr(GATE, "run_inline_up_to", 3)
    monkeypatch.setattr(GATED, "atomic", False)

    assert used.statuses[KEY] == "running"
    used.migrate()

    assert (used.applied, used.cents) == (ALL, [150] * 3)


def interrupt(obj, db_alias):
    raise KeyboardInterrupt


def test_an_inline_run_that_fails_closes_the_gate(used, inline):
    used.execute("UPDATE gated_parcel SET price = 'free'")

    with pytest.raises(GateClosed, match=r"was run by migrate on database .* and is failed: ValueError"):
        used.migrate()

    assert NOT_NULL not in used.applied


def test_plan_sqlmigrate_fake_and_backwards_need_no_migration(used):
    plan = used.migrate("gated", plan=True)
    sql = io.StringIO()
    call_command("sqlmigrate", "gated", NOT_NULL, database=used.db_alias, stdout=sql)
    used.migrate("gated", fake=True)
    faked = used.applied
    used.migrate("gated", "0002_cents", fake=True)
    used.migrate("gated", "0001_initial")

    assert "Require mass migration gated:0001_cents" in plan
    assert "-- Require mass migration gated:0001_cents" in sql.getvalue()
    assert (faked, used.applied) == (ALL, ["0001_initial"])


@pytest.mark.parametrize("elidable", [False, True])
def test_squashing_keeps_the_gate_unless_told_otherwise(used, settings, monkeypatch, tmp_path, elidable):
    folder = tmp_path / f"squashed_{used.db_alias}_{elidable}"
    shutil.copytree(Path(sys.modules[GATED.__module__].__file__).parent, folder, ignore=lambda *args: ["__pycache__"])
    if elidable:
        file = folder / f"{NOT_NULL}.py"
        file.write_text(file.read_text().replace('"0001_cents")', '"0001_cents", elidable=True)'))
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"gated": folder.name}
    call_command("squashmigrations", "gated", NOT_NULL, interactive=False, verbosity=0)

    (squashed,) = folder.glob("*squashed*.py")
    is_kept = "massmigration.gates.RequireMassMigration(" in squashed.read_text()
    assert is_kept is not elidable
    for path in folder.glob("000[23]*.py"):
        if path != squashed:
            path.unlink()
    used.execute("DROP TABLE gated_parcel")
    used.execute("DELETE FROM django_migrations WHERE app = 'gated'")
    MigrationRecord.objects.using(used.db_alias).all().delete()
    used.migrate()
    assert not used.columns["cents"]


@pytest.mark.parametrize("migrates", [True, False])
def test_the_test_runner_makes_its_database(project, settings, migrates):
    connection = connections[project.db_alias]
    name = connection.settings_dict["NAME"]
    test = {**connection.settings_dict["TEST"], "MIGRATE": migrates}
    before, connection.settings_dict["TEST"] = connection.settings_dict["TEST"], test
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        statuses = project.statuses
        columns = project.columns
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)
        connection.settings_dict["TEST"] = before

    assert statuses == {KEY: "applied", "gated:0002_first_parcel": "applied"}
    assert not columns["cents"]


def test_rows_that_the_same_migrate_inserts_in_the_old_form_close_the_gate(project, monkeypatch):
    insert = migrations.RunSQL("INSERT INTO gated_parcel (price) VALUES ('2.00')")
    monkeypatch.setattr(COLUMN, "operations", [*COLUMN.operations, insert])

    with pytest.raises(GateClosed, match="A schema migration of app 'gated'"):
        project.migrate()

    assert project.applied == ["0001_initial", "0002_cents"]


def test_a_database_that_the_migration_is_not_allowed_on_passes(used):
    store.get(KEY).allowed_db_aliases = ["elsewhere"]

    used.execute("DELETE FROM gated_parcel")
    used.migrate()

    assert used.applied == ALL


def test_a_database_that_the_app_is_not_migrated_on_passes(used, settings):
    settings.DATABASE_ROUTERS = [NotHere()]

    used.migrate()

    assert (used.applied, used.columns["cents"]) == (ALL, True)


class NotHere:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "gated"


def test_a_migration_that_does_not_exist_closes_the_gate_but_on_a_new_database(project, monkeypatch):
    monkeypatch.setattr(GATE, "name", "0001_deleted")
    project.migrate()
    project.migrate("gated", "0002_cents")

    with pytest.raises(GateClosed, match=r"'gated:0001_deleted'.* delete the gate from the schema migration"):
        project.migrate()


def test_a_table_that_was_there_under_another_name_is_not_fresh(project, monkeypatch):
    tables = frozenset({"gated_old"})
    plan = [
        (plan_of(migrations.CreateModel("Old", [])), False),
        (plan_of(migrations.RenameModel("Old", "Parcel")), False),
    ]

    assert fresh_database._created(plan, frozenset(), None) == {("gated", "parcel")}
    assert fresh_database._created(plan, tables, None) == set()


def plan_of(*operations):
    migration = migrations.Migration("0001", "gated")
    migration.operations = operations
    return migration


def test_only_what_the_database_is_told_makes_tables():
    move = migrations.SeparateDatabaseAndState(state_operations=[migrations.CreateModel("Parcel", [])])
    unmanaged = migrations.CreateModel("View", [], options={"managed": False})

    assert fresh_database._created([(plan_of(move, unmanaged), False)], frozenset(), None) == set()


def test_the_writer_writes_it():
    gate = RequireMassMigration("shop", "0003_backfill", run_inline_up_to=10_000)
    text = MigrationWriter(plan_of(gate)).as_string()

    assert "import massmigration.gates" in text
    assert "run_inline_up_to=10000" in text
    assert gate.migration_name_fragment == "require_shop_0003_backfill"


class Failing:
    on_fresh_database = "run"

    @staticmethod
    def operation(db_alias):
        raise ValueError("No network.")


@pytest.mark.parametrize(
    ("wanted", "status", "verbs", "parcels"),
    [
        ("run", "applied", ["run on fresh", "launch", "plan", "applied"], 1),
        ("fake", "applied", ["fake"], 0),
    ],
)
def test_a_migration_that_is_done_once_is_run_or_faked_on_a_fresh_database(project, wanted, status, verbs, parcels):
    store.get("gated:0002_first_parcel").on_fresh_database = wanted

    project.migrate()

    found = [(verb, actor) for key, verb, actor in project.events if key == "gated:0002_first_parcel"]
    assert project.statuses["gated:0002_first_parcel"] == status
    assert [verb for verb, _ in found] == verbs
    assert len(project.cents) == parcels
    assert (KEY, "applied", "command:migrate") in project.events


def test_one_that_fails_does_not_end_migrate(project, monkeypatch):
    monkeypatch.setattr(store.get("gated:0002_first_parcel"), "operation", Failing.operation, raising=False)

    output = project.migrate()

    assert project.statuses["gated:0002_first_parcel"] == "failed"
    assert "Mass migration gated:0002_first_parcel is failed: ValueError: No network." in output


def test_one_whose_queryset_raises_is_left_and_told(project, monkeypatch, caplog):
    def get_queryset(db_alias):
        raise NotImplementedError("Return the queryset.")

    monkeypatch.setattr(store.get("gated:0002_first_parcel"), "dependencies", [], raising=False)
    monkeypatch.setattr(store.get(KEY), "get_queryset", get_queryset, raising=False)
    project.migrate("massmigration")

    project.migrate("gated", "0001_initial")

    assert KEY not in project.statuses
    assert (
        f"Mass migration {KEY} was not marked as applied on the new tables: NotImplementedError: Return the queryset."
        in caplog.text
    )


def test_nothing_is_run_on_an_app_that_is_half_migrated(project, monkeypatch):
    monkeypatch.setattr(store.get("gated:0002_first_parcel"), "dependencies", [], raising=False)
    project.migrate("massmigration")

    project.migrate("gated", "0001_initial")

    assert project.statuses == {}


@pytest.fixture
def asking(monkeypatch):
    """Let the migration of the gate ask an operator at its end."""
    migration = store.get(KEY)
    stages = migration.get_stages()
    monkeypatch.setattr(migration, "get_stages", lambda: [*stages, migration.wait("Are the cents good?")])


def test_a_gate_whose_migration_waits_for_an_operator_names_the_command(used, asking):
    with pytest.raises(CommandError):
        used.massmigrate("gated", "0001_cents")

    with pytest.raises(GateClosed, match=r"it is waiting \(waiting, stage 2\)") as caught:
        used.migrate()

    assert f"\n    manage.py massmigration proceed gated 0001_cents --database {used.db_alias}\n" in str(caught.value)
    assert NOT_NULL not in used.applied


def test_migrate_does_not_run_a_migration_that_would_wait(used, inline, asking):
    with pytest.raises(GateClosed, match="one of its stages waits for an operator, so migrate does not run it"):
        used.migrate()

    assert used.statuses == {}


def test_nobody_is_asked_on_a_fresh_database(project, asking):
    project.migrate()

    assert project.statuses[KEY] == "applied"


@pytest.fixture
def first_parcel(project):
    return store.get("gated:0002_first_parcel")


def test_what_would_wait_is_not_run_on_a_fresh_database(project, first_parcel, monkeypatch):
    stages = first_parcel.get_stages()
    monkeypatch.setattr(first_parcel, "get_stages", lambda: [*stages, first_parcel.wait("Is it good?")])

    project.migrate()

    assert first_parcel.key not in project.statuses


def test_what_runs_only_by_name_is_not_run_on_a_fresh_database(project, first_parcel, monkeypatch):
    monkeypatch.setattr(first_parcel, "runs_only_by_name", True, raising=False)

    project.migrate()

    assert first_parcel.key not in project.statuses


def test_what_runs_only_by_name_is_faked_on_a_fresh_database(project, first_parcel, monkeypatch):
    monkeypatch.setattr(first_parcel, "runs_only_by_name", True, raising=False)
    monkeypatch.setattr(first_parcel, "on_fresh_database", "fake")

    project.migrate()

    assert project.statuses[first_parcel.key] == "applied"
