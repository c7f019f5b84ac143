"""Operations on data inside Django's own migrations."""

import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, models
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.writer import OperationWriter

from massmigration.models import Event, MigrationRecord
from massmigration.operations import AddFieldData, copy_rows
from testsupport.operations_app import migrations as people_migrations
from testsupport.operations_app.models import Archived, Person
from testsupport.threads import PATIENCE

ROWS = 30
HEAD = [("0001_initial", None), ("0002_old_code", None)]

PLAIN = """
from django.db import migrations
from massmigration.operations import AddFieldData, CopyModelData, DeleteModelData


class Migration(migrations.Migration):
    dependencies = [("people", "0002_old_code")]
    operations = [
        AddFieldData("people.Person", "nick", "filled", batch_size=7),
        CopyModelData("Person", "Archived", batch_size=7),
    ]
"""

DELETING = PLAIN.replace(', batch_size=7),\n        CopyModelData("Person", "Archived", batch_size=7)', ")").replace(
    'AddFieldData("people.Person", "nick", "filled")', 'DeleteModelData("people.Person")'
)

MIXED = PLAIN.replace("operations = [", 'operations = [\n        migrations.RunSQL("SELECT 1", "SELECT 1"),')

# As Djangae documents it, but for the line that imports the operation.
DJANGAES = '''
from massmigration.operations import AddFieldData
from djangae.fields import CharField
from django.db import migrations


class Migration(migrations.Migration):
    """ Populates the Person model with the default value for the new `favourite_colour` field. """

    operations = [
        AddFieldData(
            "people.Person",
            "favourite_colour",
            CharField(default="blue")
        )
    ]
'''


@pytest.fixture
def migrations(monkeypatch):
    """A function that adds a file to the app's migrations."""

    def add(source, name="0003_data"):
        module = types.ModuleType(f"testsupport.operations_app.migrations.{name}")
        exec(compile(textwrap.dedent(source), name, "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        import testsupport.operations_app.migrations as package

        monkeypatch.setattr(package, name, module, raising=False)
        listed = [found for found, _ in HEAD]
        monkeypatch.setattr(
            "django.db.migrations.loader.pkgutil.iter_modules",
            lambda path: (
                [(None, each, False) for each in [*listed, name]]
                if path == list(package.__path__)
                else iter_modules(path)
            ),
        )
        return module

    from pkgutil import iter_modules

    return add


@pytest.fixture(autouse=True)
def unapplied(db_alias):
    yield
    MigrationRecorder(connections[db_alias]).migration_qs.filter(app="people", name__startswith="0003").delete()


def migrate(db_alias, *arguments, **options):
    stdout = io.StringIO()
    call_command("migrate", *arguments, database=db_alias, stdout=stdout, no_color=True, **options)
    return stdout.getvalue()


def make_people(db_alias):
    Person.objects.using(db_alias).bulk_create(
        Person(name=f"P {index}", favourite_colour=None) for index in range(ROWS)
    )


def applied(db_alias):
    return ("people", "0003_data") in MigrationRecorder(connections[db_alias]).applied_migrations()


def verbs(db_alias):
    return list(Event.objects.using(db_alias).order_by("pk").values_list("key", "verb"))


def test_they_run_in_the_foreground_batch_by_batch(db_alias, migrations, monkeypatch):
    migrations(PLAIN)
    make_people(db_alias)
    committed = []
    insert = copy_rows.Insertion.insert
    monkeypatch.setattr(
        copy_rows.Insertion,
        "insert",
        lambda self, *args: (committed.append(Archived.objects.using(db_alias).count()), insert(self, *args)),
    )

    migrate(db_alias, "people")

    assert set(Person.objects.using(db_alias).values_list("nick", flat=True)) == {"filled"}
    assert Archived.objects.using(db_alias).filter(nick="filled").count() == ROWS
    assert committed == [0, 7, 14, 21, 28]
    assert applied(db_alias)
    assert not MigrationRecord.objects.using(db_alias).exists()
    assert ("people:0003_data.1", "applied") in verbs(db_alias)
    assert ("people:0003_data.2", "applied") in verbs(db_alias)


def test_an_interrupted_one_goes_on_with_the_next_migrate(db_alias, migrations, monkeypatch):
    migrations(PLAIN)
    make_people(db_alias)
    insert = copy_rows.Insertion.insert
    calls = []

    def interrupted(self, queryset, alias):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        insert(self, queryset, alias)

    monkeypatch.setattr(copy_rows.Insertion, "insert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        migrate(db_alias, "people")
    assert Archived.objects.using(db_alias).count() == 14
    Person.objects.using(db_alias).filter(nick="filled").update(nick=None)

    migrate(db_alias, "people")

    assert applied(db_alias)
    assert len(calls) == 3 + 3
    assert Archived.objects.using(db_alias).count() == ROWS
    # The first operation was applied, and is not done again.
    assert not Person.objects.using(db_alias).exclude(nick=None).exists()


COUNTING = """
from django.db import migrations
from django.db.models import F
from massmigration.operations import AddFieldData


class Migration(migrations.Migration):
    dependencies = [("people", "0002_old_code")]
    operations = [AddFieldData("people.Person", "n", F("n") + 1, overwrite=True, batch_size=7)]
"""

PROJECT = """
import datetime
from testsupport.settings import *
MIGRATION_MODULES = {"people": "counting"}
MASSMIGRATION_LEASE = datetime.timedelta(seconds=0.5)
"""

MANAGE = """
import sys, django
django.setup()
from django.core.management import call_command
from testsupport import failpoints
failpoints.arm()
call_command("migrate", "people", database=sys.argv[1])
"""


def migrate_in_a_process(folder, db_alias, die_at=""):
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    environ = {**os.environ, "PYTHONPATH": paths, "DJANGO_SETTINGS_MODULE": "project", "MM_TEST_DIE_AT": die_at}
    command = [sys.executable, "-c", MANAGE, db_alias]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoint not committed", "batch committed"])
def test_after_a_kill_the_next_migrate_goes_on(db_alias, tmp_path, place):
    package = tmp_path / "counting"
    shutil.copytree(Path(people_migrations.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "0003_data.py").write_text(COUNTING)
    (tmp_path / "project.py").write_text(PROJECT)
    make_people(db_alias)

    killed = migrate_in_a_process(tmp_path, db_alias, place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not applied(db_alias)
    done = Person.objects.using(db_alias).filter(n=1).count()
    ended = migrate_in_a_process(tmp_path, db_alias)

    assert ended.returncode == 0, ended.stderr
    assert done == (7 if place == "batch committed" else 0)
    assert list(Person.objects.using(db_alias).values_list("n", flat=True)) == [1] * ROWS
    assert applied(db_alias)


def test_one_that_fails_says_where_and_goes_on_when_the_cause_is_mended(db_alias, migrations, monkeypatch):
    migrations(PLAIN)
    make_people(db_alias)
    monkeypatch.setattr(copy_rows.Insertion, "insert", lambda *args: 1 / 0)

    with pytest.raises(CommandError, match=r"'people:0003_data\.2' failed on .*ZeroDivisionError") as raised:
        migrate(db_alias, "people")
    monkeypatch.undo()
    migrations(PLAIN)
    migrate(db_alias, "people")

    assert "run migrate again. It resumes where it stopped" in str(raised.value)
    assert applied(db_alias)
    assert Archived.objects.using(db_alias).count() == ROWS


def test_without_rows_nothing_is_recorded(db_alias, migrations):
    migrations(PLAIN)

    migrate(db_alias, "people")

    assert applied(db_alias)
    assert verbs(db_alias) == []


def test_djangaes_example_runs(db_alias, migrations, monkeypatch):
    class CharField(models.CharField):
        """A field like Djangae's, which needs no max_length."""

    djangae, fields = types.ModuleType("djangae"), types.ModuleType("djangae.fields")
    fields.CharField = CharField
    monkeypatch.setitem(sys.modules, "djangae", djangae)
    monkeypatch.setitem(sys.modules, "djangae.fields", fields)
    migrations(DJANGAES)
    make_people(db_alias)
    # The example has no dependencies, so the previous migration declares their order.
    before = importlib.import_module("testsupport.operations_app.migrations.0002_old_code")
    monkeypatch.setattr(before.Migration, "run_before", [("people", "0003_data")])

    migrate(db_alias, "people")

    assert applied(db_alias)
    assert set(Person.objects.using(db_alias).values_list("favourite_colour", flat=True)) == {"blue"}


def test_among_djangos_operations_it_needs_a_migration_without_a_transaction(db_alias, migrations):
    module = migrations(MIXED)
    make_people(db_alias)
    if connections[db_alias].features.can_rollback_ddl:
        with pytest.raises(CommandError, match="Set atomic = False on the Django migration"):
            migrate(db_alias, "people")
        assert not applied(db_alias)
        assert verbs(db_alias) == []
    module.Migration.atomic = False

    migrate(db_alias, "people")

    assert applied(db_alias)
    assert Archived.objects.using(db_alias).count() == ROWS


def test_among_djangos_operations_it_passes_on_an_empty_database(db_alias, migrations):
    migrations(MIXED)

    migrate(db_alias, "people")

    assert applied(db_alias)


def test_unapplied_it_takes_nothing_back_and_is_done_again(db_alias, migrations):
    migrations(PLAIN)
    make_people(db_alias)
    migrate(db_alias, "people")
    Person.objects.using(db_alias).update(nick=None)

    migrate(db_alias, "people", "0002")
    assert Archived.objects.using(db_alias).count() == ROWS
    migrate(db_alias, "people")

    assert set(Person.objects.using(db_alias).values_list("nick", flat=True)) == {"filled"}


def test_deleted_rows_cannot_come_back(db_alias, migrations):
    migrations(DELETING)
    make_people(db_alias)
    migrate(db_alias, "people")

    with pytest.raises(IrreversibleError):
        migrate(db_alias, "people", "0002")

    assert not Person.objects.using(db_alias).exists()


def test_the_plan_and_the_sql_name_it(db_alias, migrations):
    migrations(PLAIN)
    make_people(db_alias)
    stdout = io.StringIO()

    plan = migrate(db_alias, "people", plan=True)
    call_command("sqlmigrate", "people", "0003", database=db_alias, stdout=stdout, no_color=True)

    assert "Data: AddFieldData people.Person, nick, filled, in batches" in plan
    assert "-- Data: CopyModelData Person, Archived, in batches" in stdout.getvalue()
    assert "THIS OPERATION CANNOT BE WRITTEN AS SQL" in stdout.getvalue()
    assert not applied(db_alias)


def test_what_is_wrong_is_told_without_a_traceback(db_alias, migrations):
    migrations(PLAIN.replace('"nick"', '"nope"'))
    make_people(db_alias)

    with pytest.raises(CommandError, match=r"people\.Person has no field 'nope'; it has: age"):
        migrate(db_alias, "people")


def test_without_the_tables_of_records_it_says_what_to_do(db_alias, migrations, monkeypatch):
    migrations(PLAIN)
    make_people(db_alias)
    monkeypatch.setattr("massmigration.recorder.tables.exist", lambda alias: False)

    with pytest.raises(CommandError, match=r"Run: manage\.py migrate massmigration --database"):
        migrate(db_alias, "people")


def test_the_models_are_those_of_the_migrations_state(db_alias, migrations, monkeypatch):
    migrations(PLAIN.replace("people.Person", "people.Human").replace('"Person"', '"Human"'))
    make_people(db_alias)

    with pytest.raises(CommandError, match=r"there is no model 'people\.Human'"):
        migrate(db_alias, "people")


def test_it_can_be_written_to_a_file_again():
    operation = AddFieldData(
        "people.Person", name="nick", field=models.CharField(default="x"), uid="1", skip_errors=True
    )

    lines, imports = OperationWriter(operation, indentation=0).serialize()

    assert "import massmigration.operations.fields" in imports
    assert "on_error='continue'" in lines
    assert "field_name='nick'" in lines
