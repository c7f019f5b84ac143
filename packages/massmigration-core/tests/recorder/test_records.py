import dataclasses
import datetime as dt
import itertools
import uuid

import pytest
from django.db import transaction

from massmigration import api
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import LostShard
from massmigration.jobs import Job, JobKind
from massmigration.models import MigrationRecord
from massmigration.paging.sharding import SINGLE_SHARD
from massmigration.recorder import completion, failures, records, shards, stuck
from massmigration.recorder.completion import StageEnd
from massmigration.recorder.shards import Checkpoint
from massmigration.states import Status
from massmigration.worker import perform
from testsupport.race import KEY, LONG_AGO, new_race
from testsupport.threads import PATIENCE, Gate, blocked_at_commit, blocked_at_statement, in_thread

PARTS = ["fence", "token", "attempt"]
STALE = [parts for count in (1, 2, 3) for parts in itertools.combinations(PARTS, count)]
DONE = Checkpoint(cursor=[1], is_done=True, batch_size=3)
NOT_RUNNING = [Status.QUEUED, Status.PAUSED, Status.FAILED, Status.CANCELLED, Status.APPLIED]
LEASE = dt.timedelta(minutes=1)
NOT_ACTIVE = NOT_RUNNING[1:]


@pytest.fixture
def race(db_alias, settings):
    yield from new_race(db_alias, settings)


@pytest.fixture
def server_race(server_alias, settings):
    yield from new_race(server_alias, settings)


@pytest.fixture
def claim(race):
    return shards.claim(race.claimable(), "first")


@pytest.fixture
def all_done(race):
    job = race.claimable()
    race.shards.update(is_done=True)
    return job


def stale(claim, parts):
    changes = {}
    if "fence" in parts:
        changes["fence"] = claim.fence - 1
    if "token" in parts:
        changes["token"] = uuid.uuid4()
    if "attempt" in parts:
        changes["job"] = dataclasses.replace(claim.job, attempt_id=str(uuid.uuid4()))
    return dataclasses.replace(claim, **changes)


def set_record(race, **values):
    MigrationRecord.objects.using(race.db_alias).update(**values)


@pytest.mark.parametrize("parts", STALE, ids="+".join)
def test_a_batch_does_not_begin_with_a_stale_claim(race, claim, parts):
    race.shards.update(fence=7)
    current = dataclasses.replace(claim, fence=7)

    assert not shards.raise_fence(stale(current, parts))
    assert race.shards.get().fence == 7
    assert shards.raise_fence(current)


@pytest.mark.parametrize("parts", STALE, ids="+".join)
def test_a_batch_does_not_end_with_a_stale_claim(race, claim, parts):
    with transaction.atomic(using=race.db_alias):
        shards.raise_fence(claim)

        assert shards.save_checkpoint(stale(claim, parts), DONE) is None
        assert not race.shards.get().is_done
        assert shards.save_checkpoint(claim, DONE) is not None


def test_a_fenced_transaction_that_is_left_without_a_checkpoint_commits_nothing(race, claim):
    with pytest.raises(RuntimeError, match="without a checkpoint"), shards.fenced_transaction(claim):
        set_record(race, last_error="written")

    assert (race.shards.get().fence, MigrationRecord.objects.using(race.db_alias).get().last_error) == (0, "")


def test_a_fenced_transaction_whose_row_has_changed_commits_nothing(race, claim):
    def change_it_within():
        with shards.fenced_transaction(claim) as fenced:
            set_record(race, last_error="written")
            race.shards.update(fence=7)
            fenced.checkpoint(DONE)

    with pytest.raises(shards.RolledBack):
        change_it_within()
    assert (race.shards.get().fence, MigrationRecord.objects.using(race.db_alias).get().last_error) == (0, "")


@pytest.mark.parametrize("parts", STALE, ids="+".join)
def test_a_fenced_transaction_is_not_opened_with_a_stale_claim(race, claim, parts):
    race.shards.update(fence=7)

    with pytest.raises(LostShard), shards.fenced_transaction(stale(dataclasses.replace(claim, fence=7), parts)):
        raise AssertionError
    assert race.shards.get().fence == 7


@pytest.mark.parametrize("status", NOT_RUNNING)
def test_a_fenced_transaction_that_needs_a_running_record_stops_without_one(race, claim, status):
    set_record(race, status=status)

    with pytest.raises(shards.Stopped), shards.fenced_transaction(claim, only_if_running=True):
        raise AssertionError
    assert race.shards.get().fence == 0


def test_a_claim_is_lost_while_the_lease_runs(claim):
    assert shards.claim(claim.job, "second") is None


def test_a_claim_is_won_when_the_lease_has_run_out(race, claim):
    race.expire()

    second = shards.claim(claim.job, "second")

    assert not shards.raise_fence(claim)
    assert shards.raise_fence(second)


def test_a_shard_that_is_done_is_not_claimed(race, all_done):
    assert shards.claim(all_done, "first") is None


def test_a_shard_is_not_claimed_for_another_attempt(race):
    job = race.claimable()

    assert shards.claim(dataclasses.replace(job, attempt_id=str(uuid.uuid4())), "first") is None
    assert shards.claim(job, "first") is not None


def test_a_claim_knows_what_the_stages_other_shards_have_found_out(race):
    job = race.claimable()
    beside = race.shards.get()
    beside.pk, beside.index, beside.batch_size, beside.still_matched = None, beside.index + 1, 70, True
    beside.save(force_insert=True)

    claim = shards.claim(job, "first")

    assert (claim.batch_size, claim.still_matched) == (70, True)


def test_only_the_owner_releases_a_shard(race, claim):
    assert not shards.release(stale(claim, ["token"]), wait=LEASE)
    assert shards.claim(claim.job, "second") is None
    assert shards.release(claim, wait=LEASE)
    assert shards.claim(claim.job, "second") is not None


def test_only_the_owner_renews_a_lease(claim):
    assert not shards.renew(stale(claim, ["token"]))
    assert shards.renew(claim)


def test_a_stage_is_planned_once(race):
    job = race.claimable()

    assert not records.plan(job, SINGLE_SHARD)
    assert race.shards.count() == 1


@pytest.mark.parametrize("change", [{"attempt_id": str(uuid.uuid4())}, {"stage": 1}], ids=["attempt", "stage"])
def test_a_plan_of_another_attempt_or_stage_is_refused(race, change):
    race.launch()
    job = Job.loads(race.take())

    assert not records.plan(dataclasses.replace(job, **change), SINGLE_SHARD)
    assert not race.record.is_planned
    assert race.shards.count() == 0


@pytest.mark.parametrize("status", NOT_ACTIVE)
def test_a_plan_is_refused_unless_the_record_is_active(race, status):
    race.launch()
    set_record(race, status=status)

    assert not records.plan(Job.loads(race.take()), SINGLE_SHARD)
    assert race.record.status == status


def test_a_look_applies_what_is_all_done(race, all_done):
    assert completion.complete_stage(all_done, 1) is StageEnd.APPLIED
    assert race.record.status == Status.APPLIED


def test_a_look_passes_over_what_is_not_all_done(race):
    assert completion.complete_stage(race.claimable(), 1) is StageEnd.NOTHING
    assert race.record.status == Status.RUNNING


@pytest.mark.parametrize("change", [{"attempt_id": str(uuid.uuid4())}, {"stage": 1}], ids=["attempt", "stage"])
def test_a_look_for_another_attempt_or_stage_finds_nothing(race, all_done, change):
    assert completion.complete_stage(dataclasses.replace(all_done, **change), 1) is StageEnd.NOTHING
    assert race.record.status == Status.RUNNING


def test_a_look_finds_nothing_before_the_plan(race):
    race.launch()
    job = Job.loads(race.take())
    set_record(race, status=Status.RUNNING)

    assert completion.complete_stage(job, 1) is StageEnd.NOTHING
    assert race.record.status == Status.RUNNING


@pytest.mark.parametrize("status", NOT_RUNNING)
def test_a_look_finds_nothing_unless_the_record_is_running(race, all_done, status):
    set_record(race, status=status)

    assert completion.complete_stage(all_done, 1) is StageEnd.NOTHING
    assert race.record.status == status


def test_a_look_does_not_apply_what_has_failed_objects(race, all_done):
    failures.add(all_done, [1], ValueError("bad"), is_behind_cursor=True)

    assert completion.complete_stage(all_done, 1) is StageEnd.FAILED
    assert race.record.last_error == "1 failed object"


def test_a_look_moves_to_the_next_stage_once(race, all_done):
    assert completion.complete_stage(all_done, 2) is StageEnd.NEXT_STAGE
    assert completion.complete_stage(all_done, 2) is StageEnd.NOTHING
    assert (race.record.stage, race.record.is_planned) == (1, False)


def test_nothing_is_healed_before_its_time(race):
    race.plan()

    assert stuck.take_stuck_jobs(race.db_alias) == []


@pytest.mark.parametrize("kind", JobKind)
def test_what_is_stuck_is_healed_once_in_a_while(race, kind):
    race.launch()
    if kind is not JobKind.PLAN:
        perform(race.take())
    if kind is JobKind.FINISH:
        race.shards.update(is_done=True)
    race.expire()

    assert [item.job.kind for item in stuck.take_stuck_jobs(race.db_alias)] == [kind]
    assert stuck.take_stuck_jobs(race.db_alias) == []


def test_a_shard_in_work_is_not_healed(race, claim):
    race.shards.update(next_send_at=DatabaseNow(-dt.timedelta(minutes=1)))

    assert stuck.take_stuck_jobs(race.db_alias) == []


@pytest.mark.parametrize("status", NOT_ACTIVE)
def test_what_is_not_active_is_not_healed(race, status):
    race.plan()
    race.expire()
    set_record(race, status=status)

    assert stuck.take_stuck_jobs(race.db_alias) == []


def take_blocked(hold, db_alias, pattern, gate):
    with hold(db_alias, pattern, gate):
        return stuck.take_stuck_jobs(db_alias)


@pytest.mark.parametrize("planned", [False, True], ids=["record", "shard"])
def test_a_healer_that_read_before_another_took_sends_nothing(server_race, planned):
    gate = Gate()
    server_race.plan() if planned else server_race.launch()
    server_race.expire()
    late = in_thread(take_blocked, blocked_at_statement, server_race.db_alias, "FOR UPDATE", gate)
    gate.await_arrivals()

    assert len(stuck.take_stuck_jobs(server_race.db_alias)) == 1

    gate.open()

    assert late.result(PATIENCE) == []


@pytest.mark.parametrize("planned", [False, True], ids=["record", "shard"])
def test_a_healer_passes_over_what_another_is_taking(server_race, planned):
    gate = Gate()
    server_race.plan() if planned else server_race.launch()
    server_race.expire()
    first = in_thread(take_blocked, blocked_at_commit, server_race.db_alias, "UPDATE .massmigration", gate)
    gate.await_arrivals()

    assert stuck.take_stuck_jobs(server_race.db_alias) == []

    gate.open()

    assert len(first.result(PATIENCE)) == 1


def test_a_healer_that_read_before_a_claim_sends_nothing(server_race):
    gate = Gate()
    job = server_race.claimable()
    server_race.expire()
    late = in_thread(take_blocked, blocked_at_statement, server_race.db_alias, "FOR UPDATE", gate)
    gate.await_arrivals()
    shards.claim(job, "first")
    server_race.shards.update(next_send_at=LONG_AGO)  # as after many batches, which renew only the lease
    gate.open()

    assert late.result(PATIENCE) == []


def test_healing_sends_ever_more_rarely(race):
    race.launch()
    race.expire()
    stuck.take_stuck_jobs(race.db_alias)
    race.expire()
    stuck.take_stuck_jobs(race.db_alias)

    record = race.record
    assert record.send_count == 2
    assert (record.next_send_at - record.launched_at).total_seconds() == pytest.approx(120, abs=20)


def test_a_retry_moves_the_shards_and_takes_their_leases_away(race, claim):
    api.cancel(KEY, race.db_alias)
    api.retry(KEY, race.db_alias)

    shard = race.shards.get()
    assert (shard.attempt_id, shard.fence, shard.lease_token) == (race.record.attempt_id, claim.fence + 1, None)
