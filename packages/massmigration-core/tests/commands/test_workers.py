import dataclasses
import datetime as dt

import pytest

from massmigration import api, progress
from massmigration.dialects.times import DatabaseNow
from massmigration.management import workers as module
from massmigration.management.workers import JOIN_INTERVAL, LocalWorkers
from testsupport.factories import make, shard

LATER = DatabaseNow(dt.timedelta(minutes=5))
HELD = {"lease_until": LATER}
THROTTLED = {"throttled_until": LATER, "throttled_by": "limit"}
FREE = {"heartbeat_at": None}


@pytest.fixture
def sends(monkeypatch):
    found = []
    monkeypatch.setattr(api, "send", lambda key, db_alias: found.append(key))
    monkeypatch.setattr(module.worker, "run_periodically", lambda db_alias: None)
    return found


@pytest.fixture
def look(db_alias):
    def read(*shards):
        record = make(db_alias)
        for index, fields in enumerate(shards):
            shard(record, index, **fields)
        return progress.read(record.key, db_alias)

    read.db_alias = db_alias
    return read


def later(command):
    command._sent_at -= JOIN_INTERVAL + 1


def test_it_sends_nothing_while_throttles_keep_workers_from_it(look, sends):
    reading = look(THROTTLED, THROTTLED)
    command = LocalWorkers(reading.key, look.db_alias)

    command.keep_working(reading)
    assert sends == []
    command.keep_working(dataclasses.replace(reading, throttled_until=None, throttle_left=None))
    assert len(sends) == 1


def test_it_joins_once_while_others_are_at_every_shard(look, sends):
    reading = look(HELD, HELD)
    command = LocalWorkers(reading.key, look.db_alias)

    for _ in range(3):
        command.keep_working(reading)
        later(command)

    assert len(sends) == 1


def test_it_joins_again_when_a_shard_waits_for_a_worker(look, sends):
    reading = look(HELD, FREE)
    command = LocalWorkers(reading.key, look.db_alias)

    for _ in range(3):
        command.keep_working(reading)
    assert len(sends) == 1
    later(command)
    command.keep_working(reading)
    assert len(sends) == 2


def test_it_does_not_while_its_threads_are_at_work(look, sends, monkeypatch):
    reading = look(HELD, FREE)
    monkeypatch.setattr(module.pool, "wait_until_quiet", lambda timeout: False)

    LocalWorkers(reading.key, look.db_alias).keep_working(reading)

    assert sends == []


def test_a_shard_that_was_given_back_just_now_does_not_wait_for_a_worker(look):
    assert look({}).waiting == 0
