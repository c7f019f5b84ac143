import getpass
import io

import pytest
from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, MigrationRecord
from massmigration.recorder import tables
from massmigration.states import Status
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

FIRST, SECOND, THIRD = (f"testapp:{name}" for name in ("0001_first", "0002_second", "0003_third"))


class Counting(MapperMigration):
    update_fields = ["n"]
    bad_pks = ()

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        if obj.pk in self.bad_pks:
            raise ValueError("bad item")
        obj.n += 1


class Once(SimpleMigration):
    def operation(self, db_alias):
        pass


@pytest.fixture(autouse=True)
def migrations(monkeypatch):
    """The only migrations; the third depends on the second."""
    first, second, third = (
        Once("testapp", "0001_first"),
        Counting("testapp", "0002_second"),
        Once("testapp", "0003_third"),
    )
    third.dependencies = [("testapp", "0002_second")]
    monkeypatch.setattr(store, "_by_key", {each.key: each for each in (first, second, third)})
    monkeypatch.setattr(store, "errors", {})
    return first, second, third


def run(*arguments, **options):
    stdout, stderr = io.StringIO(), io.StringIO()
    call_command("massmigrate", *arguments, stdout=stdout, stderr=stderr, **options)
    return stdout.getvalue()


@pytest.mark.parametrize("status", [None, "applied"], ids=["not-run", "applied"])
def test_a_file_that_cannot_be_used_keeps_nobody_from_the_others(db_alias, monkeypatch, status):
    broken = {"testapp:0004_broken": BadMigrationFile("testapp/massmigrations/0004_broken.py cannot be imported")}
    monkeypatch.setattr(store, "errors", broken)
    if status:
        MigrationRecord.objects.using(db_alias).create(key="testapp:0004_broken", status=status)
        run(database=db_alias)
    else:
        with pytest.raises(CommandError, match=r"0004_broken.py cannot be imported"):
            run(database=db_alias)

    applied = MigrationRecord.objects.using(db_alias).filter(status="applied").exclude(key="testapp:0004_broken")
    assert applied.count() == 3


@pytest.mark.parametrize(
    ("flags", "ends_with_1"),
    [({"plan": True}, False), ({"check": True}, True), ({"plan": True, "check": True}, True)],
    ids=str,
)
def test_a_file_that_cannot_be_used_is_outstanding(db_alias, monkeypatch, flags, ends_with_1):
    for key in (FIRST, SECOND, THIRD):
        MigrationRecord.objects.using(db_alias).create(key=key, status=Status.APPLIED)
    monkeypatch.setattr(store, "errors", {"testapp:0004_broken": BadMigrationFile("0004_broken.py cannot be imported")})

    if not ends_with_1:
        assert run(database=db_alias, **flags) == "No mass migrations to run.\n"
        return
    with pytest.raises(CommandError, match=r"0004_broken.py cannot be imported") as raised:
        run(database=db_alias, **flags)

    assert raised.value.returncode == 1


def exit_of(*arguments, **options):
    """Run the command, and return its output and its exit code."""
    stdout = io.StringIO()
    with pytest.raises(SystemExit) as raised:
        call_command("massmigrate", *arguments, stdout=stdout, stderr=io.StringIO(), **options)
    return stdout.getvalue(), raised.value.code


def record(key, db_alias, status, **fields):
    MigrationRecord.objects.using(db_alias).create(key=key, status=status, **fields)


def statuses(db_alias):
    return dict(MigrationRecord.objects.using(db_alias).values_list("key", "status"))


def test_a_plan_shows_what_would_be_run_and_changes_nothing(db_alias):
    make_items(db_alias, 3)
    record(FIRST, db_alias, Status.FAILED, last_error="ValueError: bad")

    assert run(plan=True, database=db_alias) == (
        "Mass migrations to run:\n"
        f"  {FIRST}  failed; would be retried, ValueError: bad\n"
        f"  {SECOND}  not run, 3 rows\n"
        f"  {THIRD}  not run\n"
    )

    assert statuses(db_alias) == {FIRST: "failed"}
    assert not Event.objects.using(db_alias).exists()


def test_a_plan_names_what_it_would_wait_for(db_alias):
    assert run("testapp", "0003", plan=True, database=db_alias) == (
        f"Mass migrations to run:\n  {THIRD}  not run, blocked by {SECOND}, which would not run before it\n"
    )


def test_a_plan_bears_a_queryset_that_raises(db_alias, migrations):
    migrations[1].get_queryset = None

    assert f"{SECOND}  not run, rows unknown (TypeError: " in run(plan=True, database=db_alias)


@pytest.mark.parametrize("flags", [{"plan": True}, {"check": True}, {"plan": True, "check": True}, {}], ids=str)
def test_with_everything_applied_there_is_nothing_to_run(db_alias, flags):
    for key in (FIRST, SECOND, THIRD):
        record(key, db_alias, Status.APPLIED)

    assert run(database=db_alias, **flags) == "No mass migrations to run.\n"


@pytest.mark.parametrize("status", [status for status in Status if status != Status.APPLIED])
def test_check_exits_with_1_when_anything_is_outstanding(db_alias, status):
    record(FIRST, db_alias, status)
    record(SECOND, db_alias, Status.APPLIED)
    record(THIRD, db_alias, Status.APPLIED)

    told, code = exit_of(check=True, database=db_alias)

    assert code == 1
    assert told.startswith(f"Mass migrations to run:\n  {FIRST}  {status}")
    assert run(SECOND, check=True, database=db_alias) == "No mass migrations to run.\n"


@pytest.mark.parametrize("flags", [{"plan": True}, {"check": True}, {"fake": True, "interactive": False}, {}], ids=str)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_is_not_for_this_database_is_passed_over(db_alias, migrations, flags):
    for migration in migrations:
        migration.allowed_db_aliases = ["elsewhere"]

    assert run("testapp", **flags).startswith("No mass migrations to ")

    assert statuses(db_alias) == {}


def test_missing_tables_are_told_with_what_to_run(db_alias, monkeypatch):
    monkeypatch.setattr(tables, "_problem", lambda alias: "has no tables for mass migrations")

    with pytest.raises(
        CommandError, match=f"has no tables for mass migrations. Run: manage.py migrate --database {db_alias}"
    ):
        run(check=True, database=db_alias)


def test_a_named_one_is_faked_without_a_question(db_alias):
    assert run(FIRST, fake=True, database=db_alias) == f"{FIRST} marked as applied.\n"

    assert statuses(db_alias) == {FIRST: "applied"}
    assert Event.objects.using(db_alias).get().actor == f"command:{getpass.getuser()}"


def test_all_of_an_app_are_faked_after_a_question(db_alias, monkeypatch):
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "yes")

    run("testapp", fake=True, database=db_alias)

    assert set(statuses(db_alias).values()) == {"applied"}
    assert f"{FIRST}\n  {SECOND}\n  {THIRD}\nAre you sure?" in questions[0]


def test_all_of_an_app_are_not_faked_after_a_no(db_alias, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "n")

    with pytest.raises(CommandError, match="Nothing was changed"):
        run("testapp", fake=True, database=db_alias)

    assert statuses(db_alias) == {}


def test_what_cannot_be_faked_is_refused_in_the_words_of_the_api(db_alias):
    record(FIRST, db_alias, Status.RUNNING)

    with pytest.raises(CommandError, match=f"Cannot fake migration '{FIRST}' on .*: its status is running"):
        run(FIRST, fake=True, database=db_alias)


def test_a_dry_run_shows_changes_and_leaves_nothing_behind(db_alias):
    make_items(db_alias, 4)

    told = run(SECOND, "--dry-run", "2", database=db_alias).splitlines()

    assert told[0] == f"Dry run of {SECOND} on database '{db_alias}' with 2 objects. Nothing was saved."
    assert [line.partition(": ")[2] for line in told[1:3]] == ["n 0 -> 1", "n 0 -> 1"]
    assert "rows/s, one by one" in told[3]
    assert set(Item.objects.using(db_alias).values_list("n", flat=True)) == {0}
    assert statuses(db_alias) == {}


def test_a_dry_run_with_failed_objects_has_their_exit_code(db_alias, migrations):
    make_items(db_alias, 2)
    migrations[1].bad_pks = [Item.objects.using(db_alias).order_by("pk").first().pk]

    told, code = exit_of(SECOND, "--dry-run", "2", database=db_alias)

    assert code == 3
    assert f"  {migrations[1].bad_pks[0]}: ValueError: bad item\n" in told
    assert "1 of 2 objects failed.\n" in told


def test_a_dry_run_of_what_is_done_once_says_that_it_worked(db_alias):
    told = run(FIRST, "--dry-run", "5", database=db_alias)

    assert told.endswith("Nothing was saved.\n  once: done\n")


def test_a_dry_run_is_refused_in_the_words_of_the_core(db_alias, migrations):
    migrations[1].atomic = False

    with pytest.raises(CommandError, match="has atomic = False"):
        run(SECOND, "--dry-run", "2", database=db_alias)


def test_only_what_failed_is_retried(db_alias, migrations):
    make_items(db_alias, 3)
    migrations[1].bad_pks = [Item.objects.using(db_alias).order_by("pk").last().pk]
    with pytest.raises(CommandError):
        run(SECOND, database=db_alias)
    migrations[1].bad_pks = ()

    assert run(retry_failed=True, database=db_alias).startswith(f"{SECOND} applied: 3 rows")

    assert statuses(db_alias) == {SECOND: "applied"}
    assert run(retry_failed=True, database=db_alias) == "No mass migration has failed.\n"


def test_failed_objects_that_were_passed_are_retried(db_alias, migrations):
    make_items(db_alias, 3)
    migrations[1].on_error = "continue"
    migrations[1].bad_pks = [Item.objects.using(db_alias).order_by("pk").first().pk]
    with pytest.raises(CommandError):
        run(SECOND, database=db_alias)
    migrations[1].bad_pks = ()

    run(retry_failed=True, database=db_alias)

    assert list(Item.objects.using(db_alias).values_list("n", flat=True)) == [1, 1, 1]


def test_a_named_one_that_has_not_failed_is_not_retried(db_alias):
    api.fake(FIRST, db_alias)

    with pytest.raises(CommandError, match=f"Cannot retry migration '{FIRST}' on .*: its status is applied"):
        run(FIRST, retry_failed=True, database=db_alias)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plan", "--fake", "testapp"], "--plan and --fake exclude each other"),
        (["--check", "--recover"], "--check and --recover exclude each other"),
        (["--dry-run=3", "--retry-failed", FIRST], "--dry-run and --retry-failed exclude each other"),
        (["--plan", "--local"], "--plan runs nothing, so --local has no effect"),
        (["--check", "--workers=2"], "--check runs nothing, so --workers has no effect"),
        (["--local", "--detach"], "Use one of them"),
        (["--recover", "testapp"], "omit 'testapp'"),
        (["--fake"], "--fake requires an app label"),
        (["--dry-run=3"], "--dry-run requires the name of one migration"),
        (["--dry-run=3", "testapp"], "--dry-run requires the name of one migration"),
        (["--dry-run=0", FIRST], "must be at least 1, not 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_make_no_sense_together_are_refused(flags, message):
    with pytest.raises(CommandError, match=message):
        run(*flags)
