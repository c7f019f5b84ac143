import contextlib
import datetime as dt
import io
import os
import re
import uuid

import pytest

from massmigration import overview, progress
from massmigration.dialects.times import DatabaseNow
from massmigration.management.progress_bar import ProgressBar, render
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.progress import Progress, Speed
from massmigration.states import Status
from testsupport import factories

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
        "idle_for": None,
        "lease_left": None,
    }
    return Progress(**{**known, **fields})


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
    assert found.fraction == 0.32


def test_objects_that_failed_count_while_they_are_left_behind(db_alias):
    make_record(db_alias, {"processed": 10, "failed": 4})
    now = DatabaseNow()
    for is_behind_cursor, resolved_at in [(True, None), (True, None), (True, now), (False, None)]:
        FailedObject.objects.using(db_alias).create(
            record_id=KEY,
            attempt_id=uuid.uuid4(),
            stage=0,
            shard=0,
            is_behind_cursor=is_behind_cursor,
            failed_at=now,
            resolved_at=resolved_at,
        )

    found = progress.read(KEY, db_alias)

    assert (found.done, found.failed) == (12, 3)


def test_objects_that_failed_in_earlier_attempts_count_too(db_alias):
    make_record(db_alias, {"processed": 10, "failed": 0})
    FailedObject.objects.using(db_alias).create(
        record_id=KEY, attempt_id=uuid.uuid4(), stage=0, shard=0, is_behind_cursor=True, failed_at=DatabaseNow()
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
        "lease_until": DatabaseNow(dt.timedelta(seconds=400)),
        "heartbeat_at": DatabaseNow(-dt.timedelta(seconds=200)),
    }
    make_record(db_alias, leased, {"is_done": True})

    found = progress.read(KEY, db_alias)

    assert found.idle_for.total_seconds() == pytest.approx(200, abs=60)
    assert found.lease_left.total_seconds() == pytest.approx(400, abs=60)
    assert "waiting for workers that were last seen" in render(found, Speed(), 300)


@pytest.mark.parametrize(
    "shards",
    [[], [{"lease_until": None}], [{"lease_until": DatabaseNow(-dt.timedelta(seconds=1))}], [{"is_done": True}]],
    ids=["no shards", "free", "expired", "done"],
)
def test_nobody_is_waited_for_when_shards_are_free(db_alias, shards):
    make_record(db_alias, *shards)

    assert progress.read(KEY, db_alias).lease_left is None


def test_the_share_is_whole_only_when_the_migration_is_applied():
    assert reading(done=1000).fraction == 0.999
    assert reading(done=1000, status=Status.APPLIED).fraction == 1


def test_a_stage_that_is_not_planned_has_no_share():
    assert reading(is_planned=False, total=None, status=Status.QUEUED).fraction is None


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


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("massmigration.management.progress_bar.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_few_seconds(clock):
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.begin()
    for tick in range(120):
        clock[0] = 100 + tick / 10
        bar.show(reading(done=tick))

    bar.show(reading(done=1000, status=Status.APPLIED), is_last=True)

    lines = stream.getvalue().splitlines()
    assert [line.split("] ")[1].split(" rows")[0] for line in lines] == ["5.0% 50/1 000", "10.0% 100/1 000"]


@pytest.fixture
def terminal():
    """A stream that is a terminal, and a function that closes it and returns the text written to it."""
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
    bar = ProgressBar(stream)
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
    bar = ProgressBar(stream)
    bar.show(reading(is_once=True))

    bar.show(reading(is_once=True, status=Status.APPLIED), is_last=True)

    assert written() == f"\rshop:0002_slugs running\r{' ' * 23}\r"


def test_a_quiet_bar_says_nothing(clock):
    stream = io.StringIO()
    bar = ProgressBar(stream, is_quiet=True)

    bar.note("A notice.")
    bar.show(reading(), is_last=True)

    assert stream.getvalue() == ""


THROTTLED = {"throttled_until": DatabaseNow(dt.timedelta(minutes=5)), "throttled_by": "MaxRowsPerSecond"}
HELD = {"lease_until": DatabaseNow(dt.timedelta(minutes=5))}


@pytest.mark.parametrize(
    ("shards", "is_throttled"),
    [
        ([THROTTLED], True),
        ([{**THROTTLED, **HELD}], True),
        ([THROTTLED, {}], True),
        ([THROTTLED, {"throttled_until": DatabaseNow(dt.timedelta(hours=1)), "throttled_by": "Other"}], True),
        ([THROTTLED, HELD], False),
        ([{**THROTTLED, "throttled_until": DatabaseNow(-dt.timedelta(minutes=5))}], False),
        ([{**THROTTLED, "is_done": True}, {}], False),
    ],
    ids=["given back", "held meanwhile", "one waits for a worker", "two throttles", "one is worked at", "over", "done"],
)
def test_who_looks_is_told_what_keeps_workers_from_it(db_alias, shards, is_throttled):
    record = factories.make(db_alias)
    for index, fields in enumerate(shards):
        factories.shard(record, index, **fields)

    found = progress.read(record.key, db_alias)

    assert overview.progress_by_key([record_now(db_alias)], db_alias)[record.key].throttle == found.throttle
    expected = r"throttled until \d\d:\d\d:\d\d by MaxRowsPerSecond" if is_throttled else ""
    assert re.fullmatch(expected, found.throttle)
    assert found.throttle in render(found, Speed(), 200)


def record_now(db_alias):
    return MigrationRecord.objects.using(db_alias).annotate(now=DatabaseNow()).get()


def test_a_throttle_of_more_than_a_day_is_told_with_the_date(db_alias):
    record = factories.make(db_alias)
    factories.shard(record, throttled_until=DatabaseNow(dt.timedelta(days=2)), throttled_by="weekends")

    found = progress.read(record.key, db_alias)

    assert re.fullmatch(r"throttled until \d{4}-\d\d-\d\d \d\d:\d\d by weekends", found.throttle)


def test_what_does_not_run_is_not_throttled(db_alias):
    record = factories.make(db_alias, Status.PAUSED)
    factories.shard(record, **THROTTLED)

    assert progress.read(record.key, db_alias).throttle == ""
