import pytest
from django.db import transaction

from massmigration import api
from massmigration.exceptions import AlreadyLaunched, BadQuerySet, InsideTransaction, InvalidTransition
from massmigration.migrations import BaseMigration, MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import register
from testsupport.testapp.models import Item

KEY = "testapp:0002_by_object"


@pytest.fixture
def failed(db_alias, settings, monkeypatch):
    """A run that failed at its second batch."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    settings.MASSMIGRATION_BATCH_SIZE = 10
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(30))
    bad = Item.objects.using(db_alias).order_by("pk")[15].pk

    def log_call(migration, item_pk, alias):
        if item_pk == bad:
            raise ValueError("bad item")

    with monkeypatch.context() as patch:
        patch.setattr("testsupport.testapp.knobs.log_call", log_call)
        api.launch(KEY, db_alias)
    return MigrationRecord.objects.using(db_alias).get()


def counts(db_alias):
    return list(Item.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def test_a_retry_goes_on_where_it_failed(db_alias, failed):
    api.retry(KEY, db_alias)

    assert counts(db_alias) == [1] * 30
    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED


def test_a_restart_begins_again(db_alias, failed):
    api.restart(KEY, db_alias, actor="ann")

    record = MigrationRecord.objects.using(db_alias).get()
    assert counts(db_alias) == [2] * 15 + [1] * 15
    assert (record.status, record.launched_by) == (Status.APPLIED, "ann")
    assert record.attempt_id != failed.attempt_id
    assert sum(shard.processed for shard in ShardRecord.objects.using(db_alias)) == 30
    assert not FailedObject.objects.using(db_alias).filter(resolved_at=None).exists()


def test_a_fake_of_a_failed_migration_is_applied_and_says_so(db_alias, failed):
    api.fake(KEY, db_alias, actor="ann")

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, record.was_faked, record.last_error) == (Status.APPLIED, True, "")
    assert counts(db_alias) == [1] * 15 + [0] * 15
    assert Event.objects.using(db_alias).values_list("verb", "actor", "from_status", "to_status").last() == (
        "fake",
        "ann",
        "failed",
        "applied",
    )


def test_a_fake_without_a_record_makes_one(db_alias):
    api.fake(KEY, db_alias, actor="ann")

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, record.was_faked) == (Status.APPLIED, True)


def test_forgetting_deletes_the_record_and_keeps_its_events(db_alias, failed):
    events = Event.objects.using(db_alias).count()

    api.forget(KEY, db_alias, actor="ann")

    assert not MigrationRecord.objects.using(db_alias).exists()
    assert not ShardRecord.objects.using(db_alias).exists()
    assert not FailedObject.objects.using(db_alias).exists()
    assert Event.objects.using(db_alias).count() == events + 1


def test_what_was_forgotten_can_be_launched_again(db_alias, failed):
    api.forget(KEY, db_alias)
    api.launch(KEY, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        ("retry", "cancelled or failed"),
        ("restart", "cancelled or failed"),
        ("fake", "cancelled or failed or paused or waiting"),
        ("forget", "applied or cancelled or failed or paused or waiting"),
    ],
)
def test_an_active_migration_is_refused(db_alias, settings, verb, allowed):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, db_alias)

    with pytest.raises(InvalidTransition) as refusal:
        getattr(api, verb)(KEY, db_alias)

    assert str(refusal.value) == (
        f"Cannot {verb} migration '{KEY}' on database '{db_alias}': its status is queued; "
        f"{verb} requires the status {allowed}."
    )
    assert MigrationRecord.objects.using(db_alias).get().status == Status.QUEUED


def test_what_was_never_launched_cannot_be_forgotten(db_alias):
    with pytest.raises(InvalidTransition, match="it was never launched"):
        api.forget(KEY, db_alias)


def test_an_applied_migration_is_not_launched_again(db_alias):
    api.fake(KEY, db_alias)

    with pytest.raises(AlreadyLaunched, match="is already applied on database"):
        api.launch(KEY, db_alias)


class Sliced(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()[:5]

    def operation(self, obj, db_alias):
        raise AssertionError(obj)


class Unreachable(BaseMigration):
    def launch(self, db_alias):
        raise BadQuerySet("The broker is down.")


@pytest.mark.parametrize("migration", [Sliced, Unreachable])
@pytest.mark.parametrize("verb", ["retry", "restart"])
def test_one_that_ran_itself_stays_as_it_is_when_it_cannot_be_launched_again(db_alias, monkeypatch, migration, verb):
    key = register(monkeypatch, migration)
    records = MigrationRecord.objects.using(db_alias)
    records.create(key=key, status=Status.CANCELLED, is_managed=False, last_error="of old", launched_by="ann")
    before = records.values().get()

    with pytest.raises(BadQuerySet) as refusal:
        getattr(api, verb)(key, db_alias)

    assert records.values().get() == before
    event = Event.objects.using(db_alias).latest("pk")
    assert (event.verb, event.to_status) == ("not launched", Status.CANCELLED)
    assert event.detail == f"It stays cancelled: BadQuerySet: {refusal.value}"


VERBS = {
    "retry": api.retry,
    "restart": api.restart,
    "retry_failed": api.retry_failed,
    "resolve": lambda key, db_alias: api.resolve(key, db_alias, reason="none"),
    "fake": api.fake,
    "forget": api.forget,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_within_a_transaction_what_replaces_an_attempt_is_refused(db_alias, failed, verb):
    before = MigrationRecord.objects.using(db_alias).values().get()

    with transaction.atomic(using=db_alias), pytest.raises(InsideTransaction, match="Call it outside of transaction"):
        verb(KEY, db_alias)

    assert MigrationRecord.objects.using(db_alias).values().get() == before
