import datetime as dt

import pytest
from django.db import connections

from massmigration import api
from massmigration.backends.base import BaseBackend
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.local import Pool
from massmigration.backends.worker import perform_with
from massmigration.jobs import Job
from massmigration.paging import sharding
from massmigration.recorder import completion, shards
from massmigration.worker import perform
from testsupport.concurrent_writers import end_session
from testsupport.db_sessions import session_id
from testsupport.oracle import calls, counts, make_items, rows, verbs
from testsupport.race import ONCE_EACH, new_race
from testsupport.threads import (
    PATIENCE,
    Gate,
    blocked_at_commit,
    in_thread,
    in_threads,
    wait_until_blocked,
)

CHECKPOINT = r"SET .cursor. ="
CLAIM = r"SET .lease_token. = (?!NULL)"
APPLIED = r"SET .status. ="
POOL = Pool(size=8)


@pytest.fixture
def race(server_alias, settings):
    yield from new_race(server_alias, settings)


@pytest.fixture
def two_shards(race, monkeypatch, settings):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_SHARDS = 2
    race.migration.batch_size = 100
    race.migration.lock_rows = False  # MariaDB also locks the row after the range, the first of the other shard
    return race.plan()


def call_blocked(race, pattern, gate, call, *args):
    with blocked_at_commit(race.db_alias, pattern, gate):
        return call(*args)


def test_a_claim_does_not_wait_for_another(race):
    gate = Gate()
    job = race.claimable()
    first = in_thread(call_blocked, race, CLAIM, gate, shards.claim, job, "first")
    gate.await_arrivals()

    assert shards.claim(job, "second") is None

    gate.open()

    assert first.result(PATIENCE) is not None


@pytest.mark.parametrize("turn", range(10))
def test_one_of_many_claims_at_once_wins(race, turn):
    job = race.claimable()

    claims = in_threads([lambda: shards.claim(job, "one of many")] * 4)

    assert len([claim for claim in claims if claim]) == 1


def test_a_batch_keeps_others_away_although_its_lease_has_run_out(race, settings):
    gate = Gate()
    (payload,) = race.plan()
    settings.MASSMIGRATION_LEASE = dt.timedelta(0)
    race.migration.before = gate.wait
    worker = in_thread(perform, payload)
    gate.await_arrivals()

    assert shards.claim(Job.loads(payload), "second") is None

    gate.open()
    worker.result(PATIENCE)
    race.drain()

    assert race.ending == ONCE_EACH


def test_a_frozen_worker_whose_transaction_was_ended_commits_nothing(race):
    gate, sessions = Gate(), []
    (payload,) = race.plan()

    def freeze():
        sessions.append(session_id(race.db_alias))
        gate.wait()

    race.migration.before = freeze
    frozen = in_thread(perform, payload)
    gate.await_arrivals()
    end_session(race.db_alias, sessions[0])
    race.expire()
    perform(payload)

    assert race.ending == ONCE_EACH

    gate.open()
    frozen.result(PATIENCE)

    assert race.ending == ONCE_EACH


def test_a_batch_that_the_server_rolled_back_unnoticed_is_done_again(race):
    race.migration.after = lambda: connections[race.db_alias].connection.rollback()

    race.launch()
    race.drain()

    assert race.ending == ONCE_EACH


def test_a_batch_rolled_back_unnoticed_does_not_commit_over_the_next_owner(race, settings):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    gate = Gate()
    (payload,) = race.plan()

    def roll_back_and_freeze():
        connections[race.db_alias].connection.rollback()
        gate.wait()

    race.migration.after = roll_back_and_freeze
    frozen = in_thread(perform, payload)
    gate.await_arrivals()
    race.expire()
    perform(payload)
    gate.open()
    frozen.result(PATIENCE)

    assert calls(race.db_alias) == rows(race.db_alias)[:3]

    race.drain()

    assert race.ending == ONCE_EACH


def test_two_shards_that_finish_together_are_applied_once(race, two_shards):
    gate = Gate()
    workers = [in_thread(call_blocked, race, CHECKPOINT, gate, perform, payload) for payload in two_shards]
    gate.await_arrivals(2)
    gate.open()
    results = [worker.result(PATIENCE) for worker in workers]

    assert results == [None, None]
    assert race.sent == []
    assert race.ending == ONCE_EACH


def test_of_two_looks_at_once_one_moves_the_record_on(race):
    gate = Gate()
    (payload,) = race.plan()
    first = in_thread(call_blocked, race, APPLIED, gate, perform, payload)
    gate.await_arrivals()
    second = in_thread(completion.complete_stage, Job.loads(payload), 1)
    wait_until_blocked(race.db_alias)
    gate.open()
    first.result(PATIENCE)

    assert second.result(PATIENCE) is completion.StageEnd.NOTHING
    assert race.ending == ONCE_EACH


class TwiceBackend(BaseBackend):
    """A backend that delivers every job to two threads at the same time."""

    supports_delay = True

    def send(self, payload, delay):
        for _ in range(2):
            POOL.put(lambda: self.run(payload), delay.total_seconds() if delay else 0)

    def run(self, payload):
        try:
            perform_with(payload, self)
        finally:
            connections.close_all()


@pytest.mark.parametrize("name", ["0002_by_object", "0004_by_batch", "0005_two_stages"])
def test_every_row_is_done_once_when_every_job_is_delivered_twice(server_alias, name, monkeypatch, settings):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_BACKEND = f"{__name__}.TwiceBackend"
    settings.MASSMIGRATION_SHARDS = 4
    settings.MASSMIGRATION_BATCH_SIZE = 8
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=0.4)
    make_items(server_alias, 100)

    api.launch(f"testapp:{name}", server_alias)

    assert POOL.wait_until_idle(PATIENCE)
    assert verbs(server_alias).count("applied") == 1
    assert counts(server_alias) == [1]
    assert calls(server_alias) == (rows(server_alias) if name == "0002_by_object" else [])


@pytest.mark.parametrize("is_planned", [False, True], ids=["plan", "shard"])
def test_what_cannot_be_sent_goes_on_when_its_delivery_comes_back(race, settings, monkeypatch, is_planned):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    race.launch()
    payload = race.take()
    if is_planned:
        perform(payload)
        payload = race.take()

    def refuse(backend, payload, delay):
        raise ConnectionError("refused on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(DummyBackend, "send", refuse)
        with pytest.raises(ConnectionError):
            perform(payload)
    assert (race.sent, verbs(race.db_alias).count("not sent")) == ([], 1)
    perform(payload)
    race.drain()

    assert race.ending == ONCE_EACH
