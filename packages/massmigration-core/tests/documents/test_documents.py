"""The code for document databases, on SQLite, which answers reads and writes by key in the same way."""

import datetime as dt
import uuid
from collections import Counter

import pytest
from django.db import DatabaseError, NotSupportedError, OperationalError, connections
from django.db.models import Count, F, Max, Min, Q, StdDev, Sum
from django.utils import timezone
from google.api_core import exceptions as google

from massmigration import api
from massmigration.dialects.errors import is_too_large, is_transient
from massmigration.dialects.times import DatabaseNow
from massmigration.documents.records import KEY_BITS, LongText, key_of, next_key
from massmigration.exceptions import AlreadyLaunched
from massmigration.executor import job as executor_job
from massmigration.executor.processors import MappedProcessor
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.recorder import failures, records, shards
from massmigration.recorder.shards import LEASE_FREE
from massmigration.states import ACTIVE, Status
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.testapp.models import Call, Item

KEY = "testapp:9000_adhoc"
SQLITE = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


@pytest.fixture
def documents(db_alias, monkeypatch):
    """A function that makes the engine treat the database as a document database from then on."""
    with connections[db_alias].schema_editor() as editor:
        editor.create_model(LongText)
    yield lambda: monkeypatch.setattr("massmigration.dialects.is_document_engine", lambda engine: True)
    with connections[db_alias].schema_editor() as editor:
        editor.delete_model(LongText)


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
    """Return a function that makes a migration over twenty items, which fails for the items named."""
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(20))

    def make(*bad, **attributes):
        register(monkeypatch, type("Migration", (Mapper,), {"bad": set(bad), **attributes}))

    return make


def repair_rows(but=()):
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
    "distinct": lambda: set(FailedObject.objects.values_list("stage", "is_behind_cursor").order_by().distinct()),
    "either": lambda: Event.objects.filter(Q(verb="launch") | Q(to_status=Status.FAILED), key=KEY).count(),
    "neither": lambda: Event.objects.filter(~Q(verb="launch"), key=KEY).count(),
    "since": lambda: Event.objects.filter(key=KEY, at__gte=timezone.now() - dt.timedelta(hours=1)).count(),
    "filtered": lambda: FailedObject.objects.aggregate(
        all=Count("pk"), left=Count("pk", filter=Q(is_behind_cursor=True))
    ),
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

    with pytest.raises(NotSupportedError, match="do not support"):
        Event.objects.aggregate(StdDev("pk"))


@SQLITE
def test_objects_that_fail_are_passed_and_done_again_without_savepoints(db_alias, migrate, documents):
    documents()
    migrate("3", "7", "8", on_error="continue", batch_size=6)

    api.launch(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (17, {1}))
    assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 3

    repair_rows(but={"8"})
    api.retry_failed(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (19, {1}))

    repair_rows()
    api.retry(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


class Sets(MapperMigration):
    on_error = "continue"
    bad: set[str] = set()
    sizes: list[int] = []

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        found = list(queryset)
        self.sizes.append(len(found))
        Call.objects.using(db_alias).bulk_create(Call(migration=KEY, item=obj.pk) for obj in found)
        if self.bad & {obj.name for obj in found}:
            raise ValueError("one of them is bad")


@SQLITE
@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_failing_set_is_bisected_into_transactions(db_alias, migrate, documents, monkeypatch, on_error):
    documents()
    migrate()
    attributes = {"bad": {"13"}, "sizes": [], "batch_size": 16, "on_error": on_error}
    register(monkeypatch, type("Migration", (Sets,), attributes))

    api.launch(KEY, db_alias)

    done = 19 if on_error == "continue" else 13
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (done, {1}))
    assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 1
    assert attributes["sizes"][:6] == [16, 8, 4, 2, 1, 1]
    assert attributes["sizes"][6:] == ([2, 4] if on_error == "continue" else [])

    store.by_key[KEY].bad.clear()
    api.retry(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


@SQLITE
def test_a_failure_stops_before_its_object_and_a_retry_goes_on_at_it(db_alias, migrate, documents):
    documents()
    migrate("7", batch_size=6)

    api.launch(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.FAILED, (7, {1}))

    repair_rows()
    api.retry(KEY, db_alias)
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))
    assert Item.objects.using(db_alias).filter(note="done").count() == 20


@SQLITE
def test_a_traceback_is_read_when_it_is_asked_for(db_alias, migrate, documents):
    documents()
    migrate("7")
    api.launch(KEY, db_alias)

    failed = FailedObject.objects.using(db_alias).get()

    assert "traceback" in failed.get_deferred_fields()
    assert failed.traceback.endswith("ValueError: 7\n")
    assert FailedObject.objects.using(db_alias).filter(pk=failed.pk).update(traceback="another") == 1
    assert FailedObject.objects.using(db_alias).get().traceback == "another"


@SQLITE
def test_failed_objects_that_a_killed_restart_has_left_are_resolved_before_the_first_plan(
    db_alias, migrate, documents, monkeypatch
):
    documents()
    migrate("7", on_error="continue")
    api.launch(KEY, db_alias)
    repair_rows()
    monkeypatch.setattr(failures, "_in_or_after", lambda db_alias, call: None)  # killed after the commit

    api.restart(KEY, db_alias)

    assert status(db_alias) == Status.APPLIED
    assert not FailedObject.objects.using(db_alias).filter(resolved_at=None).exists()


@SQLITE
def test_no_page_is_read_within_a_batchs_transaction(db_alias, migrate, documents, monkeypatch):
    documents()
    migrate(batch_size=6)
    page, pages = MappedProcessor._page, []

    def noted(self, *span):
        pages.append(connections[db_alias].in_atomic_block)
        return page(self, *span)

    monkeypatch.setattr(MappedProcessor, "_page", noted)
    api.launch(KEY, db_alias)

    assert set(pages) == {False}
    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))


@SQLITE
def test_a_batchs_transaction_does_not_read_the_record(db_alias, migrate, documents, monkeypatch):
    documents()
    migrate("7", batch_size=6, on_error="continue")
    read_run, asked = shards.read_run, []

    def noted(job):
        asked.append(connections[db_alias].in_atomic_block)
        return read_run(job)

    monkeypatch.setattr(shards, "read_run", noted)
    api.launch(KEY, db_alias)

    assert set(asked) == {False}
    assert len(asked) > 20 / 6


@SQLITE
def test_a_pause_holds_from_the_next_batch_on(db_alias, migrate, documents, monkeypatch):
    documents()
    migrate(batch_size=6)
    monkeypatch.setattr(Mapper, "operation", lambda self, obj, db_alias: None)
    save_checkpoint = shards.save_checkpoint

    def paused(claim, progress):
        ended = save_checkpoint(claim, progress)
        MigrationRecord.objects.using(db_alias).filter(key=KEY).update(status=Status.PAUSED)
        return ended

    monkeypatch.setattr(shards, "save_checkpoint", paused)
    api.launch(KEY, db_alias)

    assert (status(db_alias), api.status(KEY, db_alias).done) == (Status.PAUSED, 6)


@SQLITE
def test_a_shard_that_is_leased_is_not_read_in_a_transaction(db_alias, migrate, documents, settings, monkeypatch):
    documents()
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    migrate()
    api.launch(KEY, db_alias)
    record = MigrationRecord.objects.using(db_alias).get(key=KEY)
    job = Job(kind=JobKind.PLAN, key=KEY, db_alias=db_alias, attempt_id=str(record.attempt_id))
    records.plan(job, sharding.SINGLE_SHARD)
    assert shards.claim(job, "the first") is not None

    monkeypatch.setattr(shards, "engine_transaction", None)

    assert shards.claim(job, "the second") is None


@SQLITE
def test_a_claim_that_was_refused_is_tried_again(db_alias, migrate, documents, monkeypatch, caplog):
    documents()
    migrate()
    monkeypatch.setattr(executor_job, "CLAIM_BACK_OFF", 0)
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
        (google.ResourceExhausted("Quota exceeded"), True),
        (google.ResourceExhausted("Received message larger than max (4252372 vs. 4194304)"), False),
    ],
    ids=["contention", "unavailable", "a bad query", "a quota", "too large an answer"],
)
def test_what_passes_is_told_from_what_does_not(cause, expected):
    error = OperationalError("refused")
    error.__cause__ = cause

    assert is_transient(error) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("cannot write more than 500 entities in a single call", True),
        ("Transaction too big. Decrease transaction size.", True),
        ("Request payload size exceeds the limit: 11534336 bytes.", True),
        ('The value of property "text" is longer than 1048487 bytes.', False),
    ],
    ids=["entities", "bytes", "payload", "a property"],
)
def test_a_commit_that_is_too_large_is_told_from_what_is_wrong_with_an_object(said, expected):
    error = OperationalError("refused")
    error.__cause__ = google.InvalidArgument(said)

    assert is_too_large(error) is expected


@SQLITE
def test_a_batch_that_google_refuses_for_its_size_is_halved(db_alias, migrate, documents, monkeypatch):
    documents()
    migrate(batch_size=20)
    checkpoint, sizes = shards.save_checkpoint, []

    def refused(claim, progress):
        sizes.append(progress.processed)
        if progress.processed > 6:
            raise DatabaseError("refused") from google.InvalidArgument("cannot write more than 500 entities")
        return checkpoint(claim, progress)

    monkeypatch.setattr(shards, "save_checkpoint", refused)
    api.launch(KEY, db_alias)

    assert (status(db_alias), calls(db_alias)) == (Status.APPLIED, (20, {1}))
    assert [size for size in sizes if size] == [20, 10, 5, 5, 5, 5]


@SQLITE
def test_objects_that_are_done_one_by_one_say_nothing_of_the_next_batchs_size(db_alias, migrate, documents):
    migrate("3", on_error="continue")
    documents()

    api.launch(KEY, db_alias)

    assert ShardRecord.objects.using(db_alias).get().batch_size == 100


@SQLITE
def test_failed_objects_are_put_in_the_order_of_keys_of_any_type(db_alias, migrate, documents):
    documents()
    migrate("3")
    api.launch(KEY, db_alias)
    failed = FailedObject.objects.using(db_alias).get()
    keys = [[{"uuid": "b"}], [{"uuid": "a"}], [10], [9], ["x"], None]
    for key in keys:
        failed.pk, failed.object_pk = None, key
        failed.save(using=db_alias, force_insert=True)

    found = FailedObject.objects.using(db_alias).filter(record_id=KEY).order_by("object_pk")

    assert [each.object_pk for each in found if each.object_pk in keys] == [
        None,
        [9],
        [10],
        ["x"],
        [{"uuid": "a"}],
        [{"uuid": "b"}],
    ]


@SQLITE
@pytest.mark.parametrize("model", ["failedobject", "event", "migrationrecord"])
def test_the_admin_searches(db_alias, migrate, documents, admin_client, model):
    documents()
    migrate()
    api.launch(KEY, db_alias)
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias=db_alias, attempt_id=str(uuid.uuid4()))
    failures.add(job, [1], ValueError("x"), is_behind_cursor=True)

    found = admin_client.get(f"/admin/massmigration/{model}/", {"q": "TESTAPP:9000"})

    assert found.status_code == 200
    assert KEY in found.content.decode()


@SQLITE
def test_a_condition_on_another_models_field_is_not_answered_by_the_row_itself(db_alias, migrate, documents):
    documents()
    migrate("3")
    api.launch(KEY, db_alias)

    with pytest.raises(NotSupportedError, match="do not support"):
        FailedObject.objects.using(db_alias).filter(record__stage=0).count()
