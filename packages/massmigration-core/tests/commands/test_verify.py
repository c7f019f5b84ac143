import datetime as dt
import io

import pytest
from django.core.management import call_command
from django.db.models import Value

from massmigration import progress
from massmigration.enforcement import requires_migration
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord, ShardRecord
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class Slugs(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation_batch(self, queryset, db_alias):
        queryset.update(slug=Value("done"))


class Counting(Slugs):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def remaining(self, db_alias):
        return Item.objects.using(db_alias).filter(slug=None).count()


class Blind(Slugs):
    def get_queryset(self, db_alias):
        return Item.objects.all()


class Staying(Slugs):
    def operation_batch(self, queryset, db_alias):
        queryset.update(note=Value("done"))


class Half(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        if obj.name == "Item 50":
            raise ValueError("Enough.")
        obj.slug = "done"
        obj.save()


class Broken(Slugs):
    def remaining(self, db_alias):
        if Item.objects.using(db_alias).filter(slug=None).exists():
            raise ValueError("No such column.")
        return 0


def massmigrate(db_alias, *arguments, **options):
    """Run the command, and return its exit code and its output."""
    stdout = io.StringIO()
    try:
        call_command("massmigrate", *arguments, database=db_alias, stdout=stdout, stderr=io.StringIO(), **options)
    except SystemExit as end:
        return end.code, stdout.getvalue()
    return 0, stdout.getvalue()


def applied(db_alias, monkeypatch, way):
    make_items(db_alias, 3)
    assert launch(register(monkeypatch, way), db_alias).status == "applied"


@pytest.mark.parametrize("way", [Slugs, Counting])
def test_rows_that_came_later_in_the_old_form_are_found(db_alias, monkeypatch, way):
    applied(db_alias, monkeypatch, way)

    before = massmigrate(db_alias, verify=True)
    make_items(db_alias, 2)
    after = massmigrate(db_alias, KEY, verify=True)

    assert before == (0, f"{KEY}  applied, nothing remains\n")
    again = f"manage.py massmigration forget testapp 9000_adhoc --database {db_alias}, then massmigrate"
    assert after == (1, f"{KEY}  applied, but 2 new rows need it. To process them: {again}\n")


def test_what_it_says_to_do_does_it(db_alias, monkeypatch):
    applied(db_alias, monkeypatch, Slugs)
    make_items(db_alias, 2)

    call_command("massmigration", "forget", KEY, database=db_alias, interactive=False, stdout=io.StringIO())
    massmigrate(db_alias, KEY)

    assert massmigrate(db_alias, verify=True)[0] == 0


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (Blind, "its queryset does not exclude processed objects"),
        (Staying, "its queryset has 5 rows, perhaps already processed"),
    ],
)
def test_where_it_cannot_be_known_it_says_so(db_alias, monkeypatch, way, reason):
    applied(db_alias, monkeypatch, way)
    make_items(db_alias, 2)

    code, output = massmigrate(db_alias, verify=True)

    assert code == 0
    assert f"applied, cannot be verified: {reason}" in output


def test_one_row_is_in_the_singular(db_alias, monkeypatch):
    make_items(db_alias, 1)
    launch(register(monkeypatch, Staying), db_alias)

    _, output = massmigrate(db_alias, verify=True)

    assert "its queryset has 1 row, perhaps already processed" in output


def test_what_the_migration_raises_is_told(db_alias, monkeypatch):
    applied(db_alias, monkeypatch, Broken)
    make_items(db_alias, 1)

    assert massmigrate(db_alias, verify=True) == (
        1,
        f"{KEY}  applied, cannot be verified (ValueError: No such column.)\n",
    )


def test_nothing_is_verified_that_is_not_applied(db_alias, monkeypatch):
    register(monkeypatch, Slugs)

    assert massmigrate(db_alias, verify=True) == (0, "No mass migration is applied.\n")


def test_a_plan_says_how_long_it_takes_at_the_rate_last_seen(db_alias, monkeypatch):
    make_items(db_alias, 100)
    key = register(monkeypatch, Half)
    assert launch(key, db_alias).status == "failed"
    record = MigrationRecord.objects.using(db_alias).get()
    ShardRecord.objects.using(db_alias).update(heartbeat_at=record.started_at + dt.timedelta(seconds=5))

    _, output = massmigrate(db_alias, key, plan=True)

    assert "about 5 s at 10 rows/s" in output


def test_a_plan_knows_the_rate_of_another_database(server_alias, monkeypatch):
    make_items("default", 100)
    make_items(server_alias, 100)
    key = register(monkeypatch, Slugs)
    launch(key, server_alias)
    record = MigrationRecord.objects.using(server_alias).get()
    ShardRecord.objects.using(server_alias).update(heartbeat_at=record.started_at)
    last = ShardRecord.objects.using(server_alias).order_by("-index")[0]
    ShardRecord.objects.using(server_alias).filter(pk=last.pk).update(
        heartbeat_at=record.started_at + dt.timedelta(seconds=2)
    )

    _, output = massmigrate("default", key, plan=True)

    assert f"{key}  not run, 100 rows, about 2 s at 50 rows/s as on '{server_alias}'" in output


def test_without_a_checkpoint_there_is_no_rate(db_alias):
    assert progress.last_rate(KEY, db_alias) is None


def test_check_says_what_requires_what_is_outstanding(db_alias):
    requires_migration("testapp:0001_once")(needing)

    code, output = massmigrate(db_alias, "testapp:0001_once", check=True)

    assert code == 1
    assert f"  testapp:0001_once  not run\n    required by {__name__}.needing\n" in output


def needing():
    """Do nothing. It is defined at the top level of a module, so that its dotted name leads to it."""
