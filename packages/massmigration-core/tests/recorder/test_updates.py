import re

import pytest
from django.db import connections

from massmigration import api
from massmigration.jobs import Job
from massmigration.recorder import failures, shards, work_stealing
from massmigration.worker import perform
from testsupport.race import KEY, ONCE_EACH, new_race

OWN = {"id", "attempt_id", "fence", "lease_token"}
RECORD = {"key", "attempt_id", "status"}
STEALS = ("shard", {"upper"}, {"is_done", *OWN})

# An UPDATE that sets these columns of this table must depend on columns of its own row. The first that fits counts.
RULES = [
    ("record", {"attempt_id"}, {"is_planned", *RECORD}),
    ("record", {"is_planned"}, {"stage", "is_planned", *RECORD}),
    ("record", {"status", "last_error"}, {"stage", *RECORD}),
    ("record", {"status"}, {"is_planned", *RECORD}),
    ("record", {"stalled_error"}, {"key", "attempt_id", "stalled_since"}),
    ("record", {"next_send_at"}, {"stage", "is_planned", "next_send_at", *RECORD}),
    ("shard", {"attempt_id", "fence", "lease_token"}, {"record_id"}),
    ("shard", {"lease_token", "worker"}, {"id", "attempt_id", "is_done", "lease_until"}),
    ("shard", {"lease_token"}, {"id", "lease_token"}),
    ("shard", {"cursor"}, OWN),
    ("shard", {"stalled_error"}, {"id", "attempt_id", "lease_token"}),
    STEALS,
    ("shard", {"fence"}, OWN),
    ("shard", {"next_send_at"}, {"id", "is_done", "lease_until", "next_send_at"}),
    ("shard", {"is_done"}, {"record_id", "stage", "is_done", "is_retry"}),
    ("failedobject", {"is_excluded"}, {"record_id", "resolved_at"}),
    ("failedobject", {"resolved_at"}, {"record_id", "stage", "shard", "resolved_at"}),
]


@pytest.fixture
def race(db_alias, settings):
    yield from new_race(db_alias, settings)


@pytest.fixture
def updates(race):
    """Every UPDATE of the records in a run with a failure, a retry, a pause, and recovery of every kind."""
    found = []

    def look(execute, sql, params, many, context):
        if re.match(r"UPDATE .massmigration_", sql):
            found.append(re.sub(r"[`\"]", "", sql))
        return execute(sql, params, many, context)

    with connections[race.db_alias].execute_wrapper(look):
        live(race)
    return [sql for sql in found if " WHERE " in sql or not is_of_the_test(sql)]


def is_of_the_test(sql):
    """Return whether the UPDATE is one of `race.expire()`, which has no conditions."""
    return set_columns(sql) in ({"lease_until", "next_send_at"}, {"next_send_at"})


def live(race):
    race.migration.operation = lambda obj, db_alias: 1 / 0
    (payload,) = race.plan()
    race.expire()
    api.recover(race.db_alias)
    perform(payload)
    del race.migration.operation
    api.retry(KEY, race.db_alias)
    api.pause(KEY, race.db_alias)
    api.resume(KEY, race.db_alias)
    stall(race)
    steal(race)
    race.expire()
    race.drain()
    assert race.ending == ONCE_EACH
    api.launch("testapp:0005_two_stages", race.db_alias)
    race.expire()
    api.recover(race.db_alias)
    race.drain()


def stall(race):
    claim = shards.claim(Job.loads(race.sent[-1][0]), "owner")
    failures.count_shard_stall(claim, "an error", counts=True, batch_size=1)
    shards.release(claim, wait=None)


def steal(race):
    if shards.can_skip_locked(race.db_alias):
        claim = shards.claim(Job.loads(race.sent[-1][0]), "owner")
        middle = [claim.upper[0] - 1]
        victim = work_stealing.Victim(pk=claim.pk, after=claim.after, upper=claim.upper, batch_size=1)
        assert work_stealing.split(claim.job, victim, middle, worker="thief", is_ahead=lambda after: True)


def set_columns(sql):
    clause = sql.partition(" SET ")[2].partition(" WHERE ")[0]
    return set(re.findall(r"(?:^|, )(\w+) = ", clause))


def table(sql):
    return re.match(r"UPDATE massmigration_(\w+?)(?:record)? ", sql)[1].removeprefix("migration") or "record"


def conditions(sql):
    return set(re.findall(r"massmigration_\w+\.(\w+)", sql.partition(" WHERE ")[2]))


def test_no_update_looks_at_another_row(updates):
    assert [sql for sql in updates if re.search(r"\b(SELECT|JOIN)\b|UPDATE [^ ]+,", sql)] == []


def rule_of(sql):
    return next((rule for rule in RULES if rule[0] == table(sql) and rule[1] <= set_columns(sql)), (None, None, {None}))


def test_every_update_has_its_conditions_on_its_own_row(updates):
    assert [sql for sql in updates if not rule_of(sql)[2] <= conditions(sql)] == []


def test_every_kind_of_update_was_seen(updates, db_alias):
    seen = [rule_of(sql) for sql in updates]
    possible = RULES if shards.can_skip_locked(db_alias) else [rule for rule in RULES if rule is not STEALS]

    assert [rule for rule in possible if rule not in seen] == []
