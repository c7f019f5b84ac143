import dataclasses
import datetime as dt

import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.conf import settings as conf
from massmigration.dialects import dialect_of
from massmigration.dialects.times import DatabaseNow
from massmigration.executor import work_stealing as finding
from massmigration.executor.job import worker_name
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.paging import sharding
from massmigration.recorder import shards, work_stealing
from massmigration.recorder.work_stealing import Victim
from massmigration.worker import perform
from testsupport.oracle import make_items, tally
from testsupport.race import DUMMY, KEY, ONCE_EACH, Race, Racing
from testsupport.threads import PATIENCE, Gate, blocked_at_commit, in_thread, in_threads, wait_until_blocked

ROWS = 100
NEW_SHARD = r"INSERT INTO .massmigration_shardrecord"
RECORD = r"massmigration_migrationrecord"


@pytest.fixture
def race(server_alias, settings, monkeypatch):
    """A race with two shards: one of ten rows, one of ninety."""
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    monkeypatch.setattr(finding, "PAUSE", dt.timedelta(0))
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_SHARDS = 2
    migration = Racing(*KEY.split(":"))
    make_items(server_alias, ROWS)
    with store.registered(migration):
        yield Race(server_alias, migration)


@pytest.fixture
def skewed(race):
    """The jobs of the two shards."""
    messages = race.plan()
    small, large = race.shards.order_by("index")
    bound = [small.upper[0] - 40]
    race.shards.filter(pk=small.pk).update(upper=bound)
    race.shards.filter(pk=large.pk).update(lower=bound)
    return messages


@pytest.fixture
def claim(race, skewed):
    """The claim of another worker on the large shard, the only one that is not done."""
    claim = shards.claim(Job.loads(skewed[1]), "owner")
    race.shards.filter(index=0).update(is_done=True)
    return claim


def stage_of(race):
    return race.migration.get_stages()[0]


def steal(race, claim):
    return finding.steal(claim.job, stage_of(race), get_backend(), worker_name())


def victim_of(claim, **changes):
    victim = Victim(pk=claim.pk, after=claim.after, upper=claim.upper, batch_size=3)
    return dataclasses.replace(victim, **changes)


def split(claim, *, is_ahead=True, **changes):
    middle = [claim.upper[0] - 30]
    return work_stealing.split(
        claim.job, victim_of(claim, **changes), middle, worker="thief", is_ahead=lambda after: is_ahead
    )


def run_remaining(race):
    race.shards.filter(index=0).update(is_done=False)
    race.expire()
    api.recover(race.db_alias)
    race.drain()


def ranges(race):
    found = race.shards.filter(is_retry=False).values_list("lower", "upper")
    return sorted((lower or [0], upper) for lower, upper in found)


def assert_no_gap(race):
    found = ranges(race)
    assert [lower for lower, _ in found[1:]] == [upper for _, upper in found[:-1]]


def test_a_job_that_runs_out_of_work_takes_half_of_what_another_has_left(race, skewed):
    gate = Gate()
    race.migration.before = gate.wait
    owner = in_thread(perform, skewed[1])
    gate.await_arrivals()
    thief = in_thread(perform, skewed[0])
    wait_until_blocked(race.db_alias)
    gate.open()
    owner.result(PATIENCE)
    thief.result(PATIENCE)

    assert race.sent == []
    assert race.ending == ONCE_EACH
    assert tally(race.db_alias) == (ROWS, 0, 0)
    assert race.shards.count() > 2
    assert_no_gap(race)
    by_thief = race.shards.get(index=2)
    assert 30 <= by_thief.processed <= 45


def test_the_owner_goes_on_up_to_the_middle_with_the_lease_it_has(race, claim):
    stolen = steal(race, claim)
    again = shards.read_again(claim)

    assert not shards.raise_fence(claim)
    assert (again.upper, again.token, again.cursor) == (stolen.lower, claim.token, claim.cursor)
    assert shards.raise_fence(again)
    assert stolen.upper == claim.upper


def test_what_was_taken_is_claimed_and_healed_like_any_other(race, claim, skewed):
    stolen = steal(race, claim)

    assert shards.claim(stolen.job, "another") is None

    run_remaining(race)

    assert race.ending == ONCE_EACH
    assert_no_gap(race)


def test_many_thieves_at_once_leave_no_gap_and_no_overlap(race, claim):
    stolen = in_threads([lambda: steal(race, claim)] * 4)

    assert len({each.job.shard for each in stolen}) == 4
    assert_no_gap(race)

    run_remaining(race)

    assert race.ending == ONCE_EACH
    assert tally(race.db_alias) == (ROWS, 0, 0)


def test_of_two_thieves_that_chose_the_same_middle_one_wins(claim):
    found = in_threads([lambda: split(claim)] * 2)

    assert sorted(each is None for each in found) == [False, True]


def test_nothing_is_taken_that_the_owner_has_passed_meanwhile(race, claim):
    assert split(claim, is_ahead=False) is None
    assert race.shards.count() == 2


def test_the_owners_progress_is_seen_under_its_lock(race, claim):
    gate = Gate()
    race.migration.before = gate.wait
    race.migration.batch_size = 60
    race.shards.filter(pk=claim.pk).update(lease_token=None, lease_until=None)
    owner = in_thread(perform, claim.job.dumps())
    gate.await_arrivals()
    thief = in_thread(perform_steal_with, race, claim)
    wait_until_blocked(race.db_alias)
    gate.open()
    owner.result(PATIENCE)

    assert thief.result(PATIENCE) is None
    assert race.ending[2] == [0, 1]
    assert_no_gap(race)


def perform_steal_with(race, claim):
    splitter = finding._ShardSplitter(stage_of(race), claim.job)
    return splitter.split([victim_of(claim)], "thief")


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_nothing_is_taken_from_a_run_that_was_stopped(race, claim, verb):
    getattr(api, verb)(KEY, race.db_alias)

    assert split(claim) is None
    assert race.shards.count() == 2


def test_nothing_is_taken_from_another_attempt(race, claim):
    api.cancel(KEY, race.db_alias)
    api.retry(KEY, race.db_alias)
    race.expire()

    assert split(claim) is None
    assert race.shards.count() == 2


def test_a_shard_that_is_done_is_not_split(race, claim):
    race.shards.filter(pk=claim.pk).update(is_done=True)

    assert split(claim) is None


def test_a_thief_does_not_wait_for_the_record(race, claim):
    gate = Gate()

    def hold():
        with blocked_at_commit(race.db_alias, RECORD, gate):
            api.pause(KEY, race.db_alias)

    operator = in_thread(hold)
    gate.await_arrivals()

    assert split(claim) is None

    gate.open()
    operator.result(PATIENCE)


def test_a_new_attempt_takes_a_shard_along_that_is_just_being_split_off(race, claim):
    gate = Gate()

    def hold():
        with blocked_at_commit(race.db_alias, NEW_SHARD, gate):
            return split(claim)

    def replace():
        api.cancel(KEY, race.db_alias)
        api.retry(KEY, race.db_alias)

    thief = in_thread(hold)
    gate.await_arrivals()
    operator = in_thread(replace)
    wait_until_blocked(race.db_alias)
    gate.open()
    operator.result(PATIENCE)

    assert thief.result(PATIENCE) is not None
    assert set(race.shards.values_list("attempt_id", flat=True)) == {race.record.attempt_id}


def test_a_stage_does_not_get_ever_more_shards(race, claim, monkeypatch):
    monkeypatch.setattr(work_stealing, "MAX_SHARDS_FACTOR", 1)

    assert steal(race, claim) is None
    assert race.shards.count() == 2


def test_little_is_not_shared(race, claim):
    race.shards.filter(pk=claim.pk).update(batch_size=23)

    assert steal(race, claim) is None


def test_shards_that_wait_for_a_worker_come_first(race, claim):
    race.shards.filter(index=0).update(is_done=False)

    assert steal(race, claim) is None


def test_a_shard_that_is_handed_over_is_waited_for(race, claim, monkeypatch):
    shards.release(claim, wait=dt.timedelta(0))
    race.shards.filter(pk=claim.pk).update(heartbeat_at=DatabaseNow())
    monkeypatch.setattr(finding, "sleep", lambda *args: shards.claim(claim.job, "next job"))

    assert steal(race, claim) is not None


def test_failed_objects_that_are_done_again_are_not_split(race, claim):
    race.shards.filter(pk=claim.pk).update(is_retry=True)

    assert steal(race, claim) is None


def test_effects_elsewhere_are_not_split(race, claim):
    race.migration.atomic = False

    assert steal(race, claim) is None


def test_a_worker_that_is_to_stop_takes_nothing(race, claim, monkeypatch):
    monkeypatch.setattr(type(get_backend()), "stop_requested", lambda self: True)

    assert steal(race, claim) is None


def test_a_queryset_that_raises_fails_nothing(race, claim, monkeypatch):
    stage = dataclasses.replace(stage_of(race), get_queryset=lambda db_alias: 1 / 0)

    assert finding.steal(claim.job, stage, get_backend(), "thief") is None
    assert MigrationRecord.objects.using(race.db_alias).get().status == "running"


@pytest.mark.parametrize("estimated", [100, 1000, 10**6], ids=str)
def test_a_shard_too_large_to_count_is_cut_by_the_planners_estimate(race, claim, monkeypatch, estimated):
    monkeypatch.setattr(finding, "COUNT_UP_TO", 20)
    monkeypatch.setattr(type(dialect_of(race.db_alias)), "estimated_query_rows", lambda self, page: estimated)

    stolen = steal(race, claim)

    assert claim.lower < stolen.lower < stolen.upper == claim.upper
    assert_no_gap(race)


def test_the_planner_is_asked_about_a_range(race, claim):
    queryset = Racing.get_queryset(race.migration, race.db_alias).using(race.db_alias).filter(pk__gt=0)

    assert dialect_of(race.db_alias).estimated_query_rows(queryset) > 0


def test_sqlite_has_one_worker():
    assert not shards.can_skip_locked("default")


def test_the_limit_is_far_above_what_is_planned():
    assert work_stealing.MAX_SHARDS_FACTOR * conf.SHARDS >= 100
