"""What databases of documents need, on SQLite: it answers what is read and written there by keys as they do."""

import datetime as dt
from collections import Counter

import pytest
from django.db import NotSupportedError, OperationalError, connections
from django.db.models import Count, F, Max, Min, Q, StdDev, Sum
from django.utils import timezone
from google.api_core import exceptions as google

from massmigration import api, sharding, stores
from massmigration.clock import DatabaseNow
from massmigration.documents.records import KEY_BITS, key_of, next_key
from massmigration.exceptions import AlreadyLaunched
from massmigration.executor import shard_job
from massmigration.executor.work import MappedWork
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import records, shards
from massmigration.recorder.shards import LEASE_FREE
from massmigration.states import ACTIVE, Status
from massmigration.transient import is_transient
from testsupport.adhoc import IMMEDIATE, register
from testsupport.testapp.models import Call, Item

KEY = "testapp:9000_adhoc"
SQLITE = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


@pytest.fixture
def documents(monkeypatch):
    """From here on the database is taken for one of documents."""
    return lambda: monkeypatch.setattr(stores, "_is_engine_of_documents", lambda engine: True)


class Mapper(MapperMigration):
    update_fields = ["note"]
    bad: set[str] = set()

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        if obj.name in self.bad:
            raise ValueError(obj.name)
        Call.objects.using(db_alias).create(migration=KEY, item=obj.pk)
        obj.note = "done"


@pytest.fixture
def migrate(db_alias, settings, monkeypatch):
    """Makes a migration over twenty items of what is given, which fails for the items named."""
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(20))

    def make(*bad, **attributes):
        register(monkeypatch, type("Migration", (Mapper,), {"bad": set(bad), **attributes}))

    return make


def mend(but=()):
    type(store.by_key[KEY]).bad = set(but)


def calls(db_alias):
    found = Counter(Call.objects.using(db_alias).values_list("item", flat=True))
    return len(found), set(found.values())


def status(db_alias):
    return api.status(KEY, db_alias).status


QUERIES = {
    "by key": lambda: list(MigrationRecord.objects.filter(key=KEY)),
    "another key": lambda: list(MigrationRecord.objects.filter(key="testapp:none")),
    "among keys": lambda: list(MigrationRecord.objects.filter(key__in=[KEY, "x"]).values_list("key", "status")),
    "active": lambda: MigrationRecord.objects.filter(status__in=ACTIVE).exists(),
    "excluded": lambda: MigrationRecord.objects.exclude(source_hash__in=("", "x")).exclude(running_hash="y").count(),
    "one shard": lambda: ShardRecord.objects.filter(record_id=KEY, stage=0, index=0).values_list("processed")[0],
    "leases": lambda: ShardRecord.objects.filter(LEASE_FREE, record_id=KEY).count(),
    "no leases": lambda: ShardRecord.objects.filter(record_id=KEY, lease_until__gt=DatabaseNow()).count(),
    "null": lambda: ShardRecord.objects.filter(record_id=KEY, upper__isnull=False, lease_token=None).count(),
    "greatest": lambda: ShardRecord.objects.filter(record_id=KEY).aggregate(Max("index"))["index__max"],
    "of none": lambda: ShardRecord.objects.filter(record_id="x").aggregate(n=Max("index", default=-1) + 1),
    "sums": lambda: ShardRecord.objects.aggregate(done=Sum(F("processed") + F("skipped")), beat=Count("heartbeat_at")),
    "order": lambda: [each.pk for each in FailedObject.objects.filter(record_id=KEY).order_by("-object_pk", "pk")],
    "default order": lambda: [each.verb for each in Event.objects.filter(key=KEY)],
    "backwards": lambda: [each.verb for each in Event.objects.filter(key=KEY).order_by("-pk")],
    "last": lambda: Event.objects.filter(key=KEY).last().verb,
    "slice": lambda: list(Event.objects.filter(key=KEY).values_list("verb", flat=True)[1:3]),
    "distinct": lambda: set(FailedObject.objects.values_list("stage", "was_passed").order_by().distinct()),
    "either": lambda: Event.objects.filter(Q(verb="launch") | Q(to_status=Status.FAILED), key=KEY).count(),
    "neither": lambda: Event.objects.filter(~Q(verb="launch"), key=KEY).count(),
    "since": lambda: Event.objects.filter(key=KEY, at__gte=timezone.now() - dt.timedelta(hours=1)).count(),
    "filtered": lambda: FailedObject.objects.aggregate(all=Count("pk"), left=Count("pk", filter=Q(was_passed=True))),
    "groups": lambda: list(
        FailedObject.objects.filter(record_id=KEY)
        .values("fingerprint")
        .annotate(count=Count("pk"), first=Min("pk"))
        .order_by("-count", "first")
    ),
    "values": lambda: list(Event.objects.filter(key=KEY).order_by("pk").values("verb", "to_status")),
    "by many keys": lambda: sorted(
        FailedObject.objects.in_bulk(list(FailedObject.objects.values_list("pk", flat=True)))
    ),
    "part of a key": lambda: [each.key for each in MigrationRecord.objects.filter(key__startswith="testapp:")],
    "none": lambda: (list(Event.objects.none()), Event.objects.filter(pk__in=[]).count()),
}


@SQLITE
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_what_is_asked_of_records_is_answered_as_by_sql(db_alias, migrate, documents, query, monkeypatch):
    migrate("3", "7", on_error="continue", batch_size=6)
    monkeypatch.setattr(ShardRecord, "keys_among", classmethod(lambda cls, exact: None))  # they were made by SQL
    api.launch(KEY, db_alias)
    expected = query()

    documents()

    assert query() == expected


@SQLITE
def test_what_cannot_be_answered_is_refused(db_alias, documents):
    documents()

    with pytest.raises(NotSupportedError, match="cannot be asked for"):
        Event.objects.aggregate(StdDev("pk"))


@SQLITE
def test_objects_that_fail_are_passed_and_done_again_without_savepoints(db_alias, migrate, documents):
    documents()
    migrate("3", "7", "8", on_error="continue", batch_size=6)

    api.launch(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (17, {1}))
    assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 3

    mend(but={"8"})
    api.retry_failed(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (19, {1}))

    mend()
    api.retry(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


@SQLITE
def test_a_failure_stops_before_its_object_and_a_retry_goes_on_at_it(db_alias, migrate, documents):
    documents()
    migrate("7", batch_size=6)

    api.launch(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (7, {1}))

    mend()
    api.retry(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))
    assert Item.objects.using(db_alias).filter(note="done").count() == 20


@SQLITE
def test_no_page_is_read_within_a_batchs_transaction(db_alias, migrate, documents, monkeypatch):
    documents()
    migrate(batch_size=6)
    page, pages = MappedWork._page, []

    def noted(self, *span):
        pages.append(connections[db_alias].in_atomic_block)
        return page(self, *span)

    monkeypatch.setattr(MappedWork, "_page", noted)
    api.launch(KEY, db_alias)

    assert set(pages) == {False}
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


@SQLITE
def test_a_shard_that_is_leased_is_not_read_in_a_transaction(db_alias, migrate, documents, settings, monkeypatch):
    documents()
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    migrate()
    api.launch(KEY, db_alias)
    record = MigrationRecord.objects.using(db_alias).get(key=KEY)
    job = Job(kind=JobKind.PLAN, key=KEY, db_alias=db_alias, attempt_id=str(record.attempt_id))
    records.plan(job, sharding.ONCE)
    assert shards.claim(job, "the first") is not None

    monkeypatch.setattr(shards, "engine_transaction", None)

    assert shards.claim(job, "the second") is None


@SQLITE
def test_a_claim_that_was_refused_is_tried_again(db_alias, migrate, documents, monkeypatch, caplog):
    documents()
    migrate()
    monkeypatch.setattr(shard_job, "CLAIM_BACK_OFF", 0)
    claim, refusals = shards.claim, [google.Aborted("Transaction lock timeout."), None]

    def refused_once(*arguments):
        cause = refusals.pop(0) if refusals else None
        if cause is not None:
            raise OperationalError("refused") from cause
        return claim(*arguments)

    monkeypatch.setattr(shards, "claim", refused_once)
    api.launch(KEY, db_alias)

    assert "sent again" not in caplog.text
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


@SQLITE
def test_a_second_launch_is_refused_and_a_forgotten_one_leaves_its_events(db_alias, migrate, documents):
    documents()
    migrate()
    api.launch(KEY, db_alias)

    with pytest.raises(AlreadyLaunched):
        api.launch(KEY, db_alias)
    api.forget(KEY, db_alias)

    left = [model.objects.using(db_alias).count() for model in (MigrationRecord, ShardRecord, FailedObject)]
    assert left == [0, 0, 0]
    assert [each.verb for each in Event.objects.using(db_alias).filter(key=KEY)][-1] == "forget"


def test_keys_rise_and_stay_within_their_bits():
    made = [next_key() for _ in range(1000)]

    assert made == sorted(set(made))
    assert made[-1] < 2**KEY_BITS
    assert 0 < key_of(["a", 0, 1]) < 2**KEY_BITS
    assert key_of(["a", 0, 1]) == key_of(["a", 0, 1]) != key_of(["a", 0, 2])


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (google.Aborted("Transaction lock timeout."), True),
        (google.ServiceUnavailable("x"), True),
        (google.InvalidArgument("x"), False),
    ],
    ids=["contention", "unavailable", "a bad query"],
)
def test_what_passes_is_told_from_what_does_not(cause, expected):
    error = OperationalError("refused")
    error.__cause__ = cause

    assert is_transient(error) is expected
