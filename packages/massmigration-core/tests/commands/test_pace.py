import io
import json

import pytest
from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord
from testsupport.inline_migrations import register
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"
DUMMY = "massmigration.backends.dummy.DummyBackend"


class Migration(MapperMigration):
    batch_size = 3
    update_fields = ["n"]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n += 1


@pytest.fixture(autouse=True)
def migration(monkeypatch):
    register(monkeypatch, Migration)


@pytest.fixture
def launched(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch(KEY, db_alias)


def run(command, *arguments, **options):
    stdout = io.StringIO()
    call_command(command, *arguments, stdout=stdout, stderr=io.StringIO(), **options)
    return stdout.getvalue()


def test_the_pace_is_changed_and_shown(db_alias, launched):
    options = ("--max-rows-per-second", "500", "--window", "22:00-06:00", "--throttles", "off")

    text = run("massmigration", "pace", KEY, *options, database=db_alias)

    assert "max-rows-per-second: 500\n" in text
    assert "window: 22:00-06:00\n" in text
    assert "throttles: off\n" in text
    assert "max-workers: default\n" in text
    assert json.loads(run("massmigration", "pace", KEY, "--format", "json", database=db_alias)) == {
        "max_rows_per_second": 500,
        "window": "22:00:00-06:00:00",
        "throttles": False,
    }
    event = Event.objects.using(db_alias).get(verb="pace")
    assert event.source == "command"
    assert event.actor.startswith("command:")


def test_default_resets_a_part_of_the_pace(db_alias, launched):
    run("massmigration", "pace", KEY, "--max-workers", "2", "--max-batch-size", "10", database=db_alias)

    run("massmigration", "pace", KEY, "--max-workers", "default", database=db_alias)

    assert MigrationRecord.objects.using(db_alias).get().pace == {"max_batch_size": 10}


def test_status_and_list_show_the_pace_and_the_pause_of_everything(db_alias, launched):
    api.set_pace(KEY, db_alias, max_workers=2)
    api.pause_all(db_alias)

    status = run("massmigration", "status", KEY, database=db_alias)
    (found,) = [
        each
        for each in json.loads(run("showmassmigrations", "--format", "json", database=db_alias))
        if each["key"] == KEY
    ]

    assert "everything is paused, pace: max_workers 2" in status
    assert (found["pace"], found["is_all_paused"]) == ({"max_workers": 2}, True)


def test_everything_is_paused_and_resumed_by_one_command(db_alias, launched):
    assert "everything is paused" in run("massmigration", "pause-all", database=db_alias)
    assert "paused already" in run("massmigration", "pause-all", database=db_alias)
    assert api.paused_all(db_alias) is not None
    assert "no longer paused" in run("massmigration", "resume-all", database=db_alias)
    assert "nothing was paused" in run("massmigration", "resume-all", database=db_alias)
    assert api.paused_all(db_alias) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause", KEY, "--max-workers", "2"), "--max-workers is an option of the action pace"),
        (("pause-all", KEY), "pause-all works on all migrations; omit 'testapp:9000_adhoc'"),
        (("pace", KEY, "--max-workers", "0"), "Found '0' for max_workers; allowed: a number of at least 1"),
    ],
)
def test_what_has_no_meaning_is_refused(db_alias, launched, arguments, message):
    with pytest.raises(CommandError, match=message):
        run("massmigration", *arguments, database=db_alias)


# A canary.


def test_a_run_stops_after_its_rows_and_says_how_to_go_on(db_alias):
    make_items(db_alias, 10)

    with pytest.raises(CommandError, match="has paused by itself after 5 rows, as requested") as raised:
        run("massmigrate", KEY, "--stop-after", "5", database=db_alias)
    assert raised.value.returncode == 4
    assert f"massmigrate testapp 9000_adhoc --database {db_alias}" in str(raised.value)
    assert api.status(KEY, db_alias).processed == 5

    assert "applied: 10 rows" in run("massmigrate", KEY, database=db_alias)


def test_the_rest_of_a_paused_run_may_stop_again(db_alias):
    make_items(db_alias, 10)
    for rows in (4, 8):
        with pytest.raises(CommandError, match=f"paused by itself after {rows} rows"):
            run("massmigrate", KEY, "--stop-after", "4", database=db_alias)

    assert "applied" in run("massmigrate", KEY, "--stop-after", "4", database=db_alias)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stop-after", "5"), "--stop-after requires the name of one migration"),
        (("--stop-after-time", "5", "testapp"), "--stop-after-time requires the name of one migration"),
        (("--stop-after", "5", "--plan", KEY), "--stop-after needs a run, so --plan has no effect"),
    ],
)
def test_a_stop_without_a_run_is_refused(db_alias, arguments, message):
    with pytest.raises(CommandError, match=message):
        run("massmigrate", *arguments, database=db_alias)
