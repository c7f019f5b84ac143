import dataclasses
import datetime as dt
import json
import uuid
from typing import ClassVar

import pytest

from massmigration.backends.base import BaseBackend
from massmigration.exceptions import BadPayload
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import shards
from massmigration.states import Status
from massmigration.testing import run_migration
from massmigration.worker import perform
from testsupport.oracle import counts, make_items
from testsupport.race import DUMMY, KEY, new_race


@pytest.fixture
def race(db_alias, settings):
    yield from new_race(db_alias, settings)


def job(**fields):
    values = {"kind": JobKind.SHARD, "key": "testapp:0001_once", "db_alias": "default", "attempt_id": str(uuid.uuid4())}
    return Job(**{**values, **fields})


FIELDS = {"v": 1, "kind": "plan", "key": "a:1_b", "db_alias": "default", "attempt_id": str(uuid.UUID(int=1))}


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "garbage",
        '{"v": 99}',
        "[" * 100_000,
        *(json.dumps({**FIELDS, **wrong}) for wrong in ({"db_alias": "gone"}, {"stage": False}, {"key": "a:\0"})),
    ],
    ids=["empty", "garbage", "version", "nested", "unknown alias", "stage", "NUL"],
)
def test_what_is_no_job_is_refused(payload):
    with pytest.raises(BadPayload):
        perform(payload)


@pytest.mark.parametrize("kind", JobKind)
def test_a_job_without_a_record_is_dropped(race, kind):
    perform(job(kind=kind, db_alias=race.db_alias).dumps())

    assert race.sent == []


def test_a_job_of_a_migration_that_this_worker_cannot_load_is_dropped(race):
    perform(job(key="testapp:9999_gone", db_alias=race.db_alias).dumps())

    assert race.sent == []


class Carrier(BaseBackend):
    """A backend that appends jobs to a list and does not delay them."""

    supports_delay = True
    sent: ClassVar[list] = []

    def send(self, payload, delay):
        self.sent.append((type(self), payload))


class OwnCarrier(Carrier):
    """A project's own backend."""


@pytest.fixture
def unknown(race, monkeypatch):
    """The payload of a running migration whose file this worker does not have."""
    monkeypatch.setattr(Carrier, "sent", [])
    race.launch()
    payload = race.take()
    monkeypatch.delitem(store.by_key, KEY)
    return payload


@pytest.mark.parametrize(
    ("backend", "expected"),
    [(DUMMY, Carrier), (f"{__name__}.OwnCarrier", OwnCarrier), ("no.such", Carrier)],
    ids=["another", "the project's own", "none"],
)
def test_a_job_of_an_unknown_migration_goes_back_by_its_carrier(unknown, settings, backend, expected):
    settings.MASSMIGRATION_BACKEND = backend

    perform(unknown, carrier=f"{__name__}.Carrier")

    assert Carrier.sent == [(expected, unknown)]


def test_the_carrier_of_a_known_migration_does_not_matter(race):
    race.launch()

    perform(race.take(), carrier="no.such")

    assert len(race.sent) == 1


def test_a_job_of_a_stage_that_is_gone_fails_the_migration(race):
    race.launch()
    MigrationRecord.objects.using(race.db_alias).update(stage=3)

    perform(dataclasses.replace(Job.loads(race.take()), stage=3).dumps())

    assert race.record.status == Status.FAILED
    assert "the job is for stage 3" in race.record.last_error


def test_a_job_that_finds_its_shard_done_looks_whether_all_are(race):
    (payload,) = race.plan()
    race.shards.update(is_done=True)

    perform(payload)

    assert race.record.status == Status.APPLIED


def test_a_plan_that_finds_nothing_left_looks_whether_all_is_done(race):
    race.launch()
    payload = race.take()
    perform(payload)
    race.shards.update(is_done=True)

    perform(payload)

    assert race.record.status == Status.APPLIED


def test_a_migration_can_be_run_in_a_test_whatever_its_backend(race):
    record = run_migration("testapp:0005_two_stages", race.db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert race.sent == []


@pytest.mark.django_db
def test_a_migration_can_be_run_in_a_test_that_never_commits(settings):
    make_items("default", 5)

    assert run_migration("testapp:0005_two_stages").status == Status.APPLIED
    assert counts("default") == [1]


def test_who_takes_over_from_a_worker_that_died_begins_with_half_a_batch(race):
    (payload,) = race.plan()
    job = Job.loads(payload)
    race.shards.update(batch_size=800)

    sizes = []
    for _ in range(3):
        sizes.append(shards.claim(job, "one that dies").batch_size)
        race.expire()
    released = shards.claim(job, "one that ends")
    shards.release(released, wait=dt.timedelta(0))

    assert [*sizes, released.batch_size] == [800, 400, 200, 100]
    assert shards.claim(job, "the next").batch_size == 100


def test_half_of_the_first_batch_is_half_of_the_setting(race, settings):
    settings.MASSMIGRATION_BATCH_SIZE = 500
    (payload,) = race.plan()
    job = Job.loads(payload)
    shards.claim(job, "one that dies")
    race.expire()

    assert shards.claim(job, "the next").batch_size == 250
