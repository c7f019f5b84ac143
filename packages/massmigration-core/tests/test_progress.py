import contextlib
import datetime as dt
import io
import os
import uuid

import pytest

from massmigration import progress
from massmigration.clock import DatabaseNow
from massmigration.management.bar import Bar, duration, number, render
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.progress import Reading, Speed
from massmigration.states import Status

KEY = "shop:0002_slugs"


def reading(**fields):
    known = {
        "key": KEY,
        "status": Status.RUNNING,
        "attempt_id": "",
        "stage": 0,
        "is_planned": True,
        "is_managed": True,
        "last_error": "",
        "total": 1000,
        "is_total_estimated": False,
        "done": 0,
        "processed": 0,
        "failed": 0,
        "is_once": False,
        "silence": None,
        "lease_left": None,
    }
    return Reading(**{**known, **fields})


def speed_of(*points, window=10.0):
    speed = Speed(window)
    for at, done in points:
        speed.add(reading(done=done), at)
    return speed


def make_record(db_alias, *shards, **fields):
    record = MigrationRecord.objects.using(db_alias).create(
        key=KEY, **{"status": Status.RUNNING, "is_planned": True, "total": 100, **fields}
    )
    for index, shard in enumerate(shards):
        ShardRecord.objects.using(db_alias).create(
            **{"record": record, "attempt_id": uuid.uuid4(), "stage": 0, "index": index, "upper": [9], **shard}
        )


def test_no_record_is_no_reading(db_alias):
    assert progress.read(KEY, db_alias) is None


def test_what_batches_have_passed_is_summed_over_the_shards_of_the_present_stage(db_alias):
    make_record(db_alias, {"processed": 10, "skipped": 2}, {"processed": 20}, {"stage": 1, "processed": 5})

    found = progress.read(KEY, db_alias)

    assert (found.done, found.failed, found.total, found.processed) == (32, 0, 100, 35)
    assert found.share == 0.32


def test_objects_that_failed_count_while_they_are_left_behind(db_alias):
    make_record(db_alias, {"processed": 10, "failed": 4})
    now = DatabaseNow()
    for was_passed, resolved_at in [(True, None), (True, None), (True, now), (False, None)]:
        FailedObject.objects.using(db_alias).create(
            record_id=KEY,
            attempt_id=uuid.uuid4(),
            stage=0,
            shard=0,
            was_passed=was_passed,
            failed_at=now,
            resolved_at=resolved_at,
        )

    found = progress.read(KEY, db_alias)

    assert (found.done, found.failed) == (12, 3)


def test_objects_that_failed_in_earlier_attempts_count_too(db_alias):
    make_record(db_alias, {"processed": 10, "failed": 0})
    FailedObject.objects.using(db_alias).create(
        record_id=KEY, attempt_id=uuid.uuid4(), stage=0, shard=0, was_passed=True, failed_at=DatabaseNow()
    )

    found = progress.read(KEY, db_alias)

    assert (found.done, found.failed) == (11, 1)


def test_a_look_takes_three_queries(db_alias, django_assert_num_queries):
    from django.db import connections

    make_record(db_alias, {}, {}, {})

    with django_assert_num_queries(3, connection=connections[db_alias]):
        progress.read(KEY, db_alias)


def test_workers_that_hold_all_the_shards_are_waited_for(db_alias):
    leased = {
        "lease_until": DatabaseNow(dt.timedelta(seconds=40)),
        "heartbeat_at": DatabaseNow(-dt.timedelta(seconds=20)),
    }
    make_record(db_alias, leased, {"is_done": True})

    found = progress.read(KEY, db_alias)

    assert found.silence.total_seconds() == pytest.approx(20, abs=5)
    assert found.lease_left.total_seconds() == pytest.approx(40, abs=5)
    assert "waiting for workers that have been silent" in render(found, Speed(), 300)


@pytest.mark.parametrize(
    "shards",
    [[], [{"lease_until": None}], [{"lease_until": DatabaseNow(-dt.timedelta(seconds=1))}], [{"is_done": True}]],
    ids=["no shards", "free", "expired", "done"],
)
def test_nobody_is_waited_for_when_shards_are_free(db_alias, shards):
    make_record(db_alias, *shards)

    assert progress.read(KEY, db_alias).lease_left is None


def test_the_share_is_whole_only_when_the_migration_is_applied():
    assert reading(done=1000).share == 0.999
    assert reading(done=1000, status=Status.APPLIED).share == 1


def test_a_stage_that_is_not_planned_has_no_share():
    assert reading(is_planned=False, total=None, status=Status.QUEUED).share is None


def test_the_recent_speed_looks_back_over_the_window_alone():
    speed = speed_of((0, 0), (10, 100), (20, 200), (25, 700), window=5)

    assert speed.recent == 100
    assert speed.overall == 28


def test_the_time_left_follows_from_the_recent_speed():
    speed = speed_of((0, 0), (2, 500))

    assert speed.seconds_left(reading(done=500)) == 2


@pytest.mark.parametrize(
    "fields",
    [{"total": None}, {"done": 1001}, {"status": Status.PAUSED, "done": 500}],
    ids=["no total", "estimate too low", "paused"],
)
def test_no_time_left_is_told_when_nobody_knows(fields):
    assert speed_of((0, 0), (2, 500)).seconds_left(reading(**fields)) is None


def test_the_next_stage_begins_the_speed_anew():
    speed = speed_of((0, 0), (1, 1000))

    speed.add(reading(stage=1, done=0), 2)

    assert speed.recent is None


def test_the_line_says_how_far_how_fast_and_how_long():
    speed = speed_of((0, 0), (10, 98_765))

    line = render(reading(done=98_765, total=234_908), speed, 200)

    assert line == "shop:0002_slugs [########............] 42.0% 98 765/234 908 rows, 9 876 rows/s, 14 s left"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"is_total_estimated": True}, "0/~1 000 rows"),
        ({"failed": 3, "done": 10}, "10/1 000 rows, 3 failed"),
        ({"stage": 1}, "shop:0002_slugs stage 2 ["),
        ({"status": Status.QUEUED, "is_planned": False}, "shop:0002_slugs queued"),
        ({"is_once": True, "total": 1}, "shop:0002_slugs running"),
        ({"status": Status.APPLIED, "done": 1000}, "[####################] 100.0% 1 000/1 000 rows"),
        ({"status": Status.APPLIED, "total": 0}, "100.0% 0/0 rows"),
    ],
    ids=["estimate", "failed", "stage", "queued", "once", "applied", "empty"],
)
def test_the_line_says_what_there_is_to_say(fields, text):
    assert text in render(reading(**fields), Speed(), 200)


def test_a_narrow_terminal_gets_the_line_without_its_bar():
    line = render(reading(done=421), Speed(), 40)

    assert line == "shop:0002_slugs 42.1% 421/1 000 rows"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.6, "3 s"), (125, "2 min 5 s"), (4320, "1 h 12 min")], ids=["s", "min", "h"]
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_thousands_stand_apart():
    assert number(1234567) == "1 234 567"


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("massmigration.management.bar.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_few_seconds(clock):
    stream = io.StringIO()
    bar = Bar(stream)
    bar.begin()
    for tick in range(120):
        clock[0] = 100 + tick / 10
        bar.show(reading(done=tick))

    bar.show(reading(done=1000, status=Status.APPLIED), is_last=True)

    lines = stream.getvalue().splitlines()
    assert [line.split("] ")[1].split(" rows")[0] for line in lines] == ["5.0% 50/1 000", "10.0% 100/1 000"]


@pytest.fixture
def terminal():
    """A stream that is one, and what was written to it; it is closed by asking."""
    master, slave = os.openpty()
    stream = os.fdopen(slave, "w")

    def written():
        stream.close()
        text = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while chunk := os.read(master, 10_000):
                text += chunk
        return text.decode()

    yield stream, written
    os.close(master)


def test_on_a_terminal_one_line_is_redrawn(clock, terminal):
    stream, written = terminal
    bar = Bar(stream)
    bar.begin()
    bar.show(reading(done=500))
    clock[0] += 0.01
    bar.show(reading(done=501))
    clock[0] += 1
    bar.note("A notice.")

    bar.show(reading(done=1000, status=Status.APPLIED), is_last=True)

    lines = written().split("\r\n")
    assert [line.split(" ")[-1] for line in lines] == ["rows", "notice.", "rows", ""]
    assert [line.count("\rshop:") for line in lines] == [1, 0, 1, 0]
    assert "501" not in "".join(lines)


def test_of_what_is_done_once_no_line_is_left_on_a_terminal(clock, terminal):
    stream, written = terminal
    bar = Bar(stream)
    bar.show(reading(is_once=True))

    bar.show(reading(is_once=True, status=Status.APPLIED), is_last=True)

    assert written() == f"\rshop:0002_slugs running\r{' ' * 23}\r"


def test_a_quiet_bar_says_nothing(clock):
    stream = io.StringIO()
    bar = Bar(stream, is_quiet=True)

    bar.note("A notice.")
    bar.show(reading(), is_last=True)

    assert stream.getvalue() == ""
