import datetime as dt
import io
import json
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from massmigration import overview, progress
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.management.commands.showmassmigrations import Command
from massmigration.management.output import FIELDS
from massmigration.migrations import SimpleMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import tables
from massmigration.states import Status

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)


@pytest.fixture(autouse=True)
def migrations(monkeypatch):
    """The only migrations; the first by name depends on the second."""
    names = ["0001_late", "0002_early", "0003_other"]
    found = {f"testapp:{name}": SimpleMigration("testapp", name) for name in names}
    found["testapp:0001_late"].dependencies = [("testapp", "0002_early")]
    monkeypatch.setattr(store, "_by_key", found)
    monkeypatch.setattr(store, "errors", {})
    monkeypatch.setattr(overview.time, "sleep", lambda seconds: None)
    return found


def run(*arguments, **options):
    stdout = io.StringIO()
    call_command("showmassmigrations", *arguments, stdout=stdout, stderr=io.StringIO(), no_color=True, **options)
    return stdout.getvalue()


def record(name, db_alias, status, **fields):
    return MigrationRecord.objects.using(db_alias).create(key=f"testapp:{name}", status=status, **fields)


def shard(record, db_alias, index=0, **fields):
    fields = {"attempt_id": record.attempt_id, "stage": record.stage, "upper": [100], **fields}
    return ShardRecord.objects.using(db_alias).create(record_id=record.key, index=index, **fields)


def running(db_alias):
    """Return the record of a migration that has done 30 of 100 rows, in two shards."""
    found = record("0002_early", db_alias, Status.RUNNING, is_planned=True, total=100, launched_by="ann")
    shard(found, db_alias, 0, processed=10, skipped=2, heartbeat_at=NOW)
    shard(found, db_alias, 1, processed=18, heartbeat_at=NOW)
    return found


@pytest.mark.parametrize(
    ("status", "fields", "line"),
    [
        (Status.APPLIED, {}, "[X] 0001_late"),
        (Status.APPLIED, {"was_faked": True}, "[-] 0001_late"),
        (Status.QUEUED, {}, "[>] 0001_late  queued"),
        (Status.RUNNING, {}, "[>] 0001_late"),
        (Status.PAUSED, {"stage": 1}, "[=] 0001_late  stage 2"),
        (Status.CANCELLED, {}, "[C] 0001_late"),
        (Status.FAILED, {"last_error": "ValueError: bad"}, "[!] 0001_late  ValueError: bad\n{more}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_status_has_its_mark(db_alias, status, fields, line):
    record("0001_late", db_alias, status, **fields)
    more = "     more: manage.py massmigration status testapp 0001_late"
    line = line.format(more=more if db_alias == "default" else f"{more} --database {db_alias}")

    assert run(database=db_alias) == f"testapp\n {line}\n [ ] 0002_early\n [ ] 0003_other\n"


def test_how_far_a_running_one_is_and_how_fast_is_shown(db_alias, monkeypatch):
    found = running(db_alias)

    def work(seconds):
        ShardRecord.objects.using(db_alias).filter(record_id=found.key, index=1).update(
            processed=28, heartbeat_at=NOW + dt.timedelta(seconds=2)
        )

    monkeypatch.setattr(overview.time, "sleep", work)

    assert " [>] 0002_early  40.0%, 40/100 rows, 5 rows/s, 12 s left\n" in run(database=db_alias)


def test_what_is_at_a_standstill_has_no_rate(db_alias):
    running(db_alias)

    assert " [>] 0002_early  30.0%, 30/100 rows\n" in run(database=db_alias)


def test_troubles_with_files_are_shown(db_alias, monkeypatch, migrations):
    monkeypatch.setattr(store, "errors", {"testapp:0004_broken": BadMigrationFile("it cannot be imported")})
    record("0000_gone", db_alias, Status.APPLIED)
    record("0002_early", db_alias, Status.PAUSED, source_hash="a", running_hash="b")
    migrations["testapp:0003_other"].allowed_db_aliases = ["elsewhere"]

    assert run(database=db_alias) == (
        "testapp\n"
        " [X] 0000_gone  its file is missing\n"
        " [ ] 0001_late\n"
        " [=] 0002_early  its file has changed since the launch\n"
        f" [ ] 0003_other  not for database '{db_alias}'\n"
        " [ ] 0004_broken  it cannot be imported\n"
    )


def test_a_plan_follows_the_dependencies(db_alias):
    assert run(order="plan", database=db_alias).split("\n") == [
        "[ ] testapp:0002_early",
        "[ ] testapp:0001_late",
        "[ ] testapp:0003_other",
        "",
    ]


def test_a_plan_shows_the_dependencies_when_asked_for_more(db_alias):
    assert "[ ] testapp:0001_late  ... (testapp:0002_early)\n" in run("-p", "-v2", database=db_alias)


def test_a_plan_of_an_app_has_what_it_depends_on_in_others(db_alias, monkeypatch, migrations):
    mine = SimpleMigration("auth", "0001_mine")
    mine.dependencies = [("testapp", "0001_late")]
    monkeypatch.setattr(store, "_by_key", {mine.key: mine, **migrations})

    assert run("auth", "-p", database=db_alias) == (
        "[ ] testapp:0002_early\n[ ] testapp:0001_late\n[ ] auth:0001_mine\n"
    )


def test_apps_limit_the_output(db_alias):
    assert run("auth", database=db_alias) == "auth\n (no mass migrations)\n"


def test_an_unknown_app_has_an_exit_code_of_its_own():
    with pytest.raises(CommandError, match="No installed app with label 'nope'") as raised:
        run("nope")

    assert raised.value.returncode == 2


def test_missing_tables_are_told_with_what_to_run(db_alias, monkeypatch):
    monkeypatch.setattr(tables, "_problem", lambda alias: "has no tables")

    with pytest.raises(CommandError, match=f"Run: manage.py migrate --database {db_alias}"):
        run(database=db_alias)


def test_json_has_all_there_is_to_know(db_alias):
    found = running(db_alias)
    MigrationRecord.objects.using(db_alias).update(launched_at=NOW, was_faked=False)

    (entry,) = [each for each in json.loads(run(format="json", database=db_alias)) if each["key"] == found.key]

    assert entry == {
        "key": "testapp:0002_early",
        "database": db_alias,
        "status": "running",
        "was_faked": False,
        "is_allowed": True,
        "file": "found",
        "file_error": "",
        "dependencies": [],
        "stage": 0,
        "total": 100,
        "is_total_estimated": False,
        "done": 30,
        "processed": 28,
        "changed": 0,
        "failed": 0,
        "fraction": 0.3,
        "rate": None,
        "seconds_left": None,
        "stalled_since": None,
        "stalled_tries": 0,
        "stalled_error": "",
        "throttled_until": None,
        "throttled_by": "",
        "is_all_paused": False,
        "pace": {},
        "question": "",
        "waiting_since": None,
        "launched_by": "ann",
        "launched_at": "2026-01-02T03:04:05+00:00",
        "started_at": None,
        "finished_at": None,
        "last_error": "",
        "has_code_changed": False,
    }


def test_json_of_what_was_never_launched_has_the_same_fields(db_alias):
    running(db_alias)

    late, early, _ = json.loads(run(format="json", database=db_alias))

    assert late.keys() == early.keys()
    assert late["status"] is None
    assert late["dependencies"] == ["testapp:0002_early"]


def test_the_help_names_every_field_of_the_json(db_alias):
    (entry, *_) = json.loads(run(format="json", database=db_alias))

    text = Command().create_parser("manage.py", "showmassmigrations").format_help()
    assert [field for field in entry if field not in FIELDS] == []
    assert "ISO 8601" in text


def queries_of_records(db_alias, count):
    for number in range(count):
        found = record(f"{number:04}_one", db_alias, Status.PAUSED, is_planned=True, total=100)
        shard(found, db_alias, processed=10)
    with CaptureQueriesContext(connections[db_alias]) as queries:
        run(database=db_alias)
    quoted = connections[db_alias].ops.quote_name("massmigration_").rstrip('`"')
    return [query["sql"] for query in queries if f"FROM {quoted}" in query["sql"]]


def test_the_queries_do_not_grow_with_the_migrations(db_alias):
    assert 1 <= len(queries_of_records(db_alias, 20)) <= 4


def test_it_reads_the_same_as_the_one_by_one(db_alias):
    found = running(db_alias)
    MigrationRecord.objects.using(db_alias).update(status=Status.PAUSED, stage=1)
    shard(found, db_alias, stage=1, processed=3, failed=2)
    for is_behind_cursor in (True, False):
        FailedObject.objects.using(db_alias).create(
            record_id=found.key,
            attempt_id=found.attempt_id,
            stage=1,
            shard=0,
            is_behind_cursor=is_behind_cursor,
            failed_at=NOW,
        )

    (entry,) = [each for each in overview.read(db_alias) if each.key == found.key]

    assert entry.progress == progress.read(found.key, db_alias)
    assert (entry.progress.done, entry.progress.failed, entry.progress.processed) == (4, 2, 31)


def test_a_throttle_that_keeps_workers_from_it_is_told(db_alias):
    found = running(db_alias)
    until = dt.timedelta(minutes=30)
    ShardRecord.objects.using(db_alias).update(throttled_until=DatabaseNow(until), throttled_by="while_lagging")

    (entry,) = [each for each in json.loads(run(format="json", database=db_alias)) if each["key"] == found.key]

    assert entry["throttled_by"] == "while_lagging"
    assert dt.datetime.fromisoformat(entry["throttled_until"]) > timezone.now() + until / 2
    assert re.search(r"throttled until \d\d:\d\d:\d\d by while_lagging", run(database=db_alias))
