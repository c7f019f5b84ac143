import pytest

from massmigration import api
from massmigration.exceptions import CannotResolve, InvalidTransition
from massmigration.migrations import MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder.attempts import MAX_IDS
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Call, Item

KEY = "testapp:9000_adhoc"
BAD = (3, 6, 9)


class Careful(MapperMigration):
    """Raises for some objects while `is_broken`, and logs the other calls."""

    on_error = "continue"
    is_broken = True

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        Call.objects.using(db_alias).create(migration=KEY, item=int(obj.name))
        if self.is_broken and int(obj.name) in BAD:
            raise ValueError(f"bad {obj.name}") if int(obj.name) < 9 else KeyError(obj.name)


class Stopping(Careful):
    on_error = "stop"


@pytest.fixture
def failed(db_alias, settings, monkeypatch):
    """The failures of three of ten items, whose cause is fixed now."""
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    register(monkeypatch, Careful)
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(10))
    assert launch(KEY, db_alias).status == Status.FAILED
    monkeypatch.setattr(Careful, "is_broken", False)
    return {item_of(each, db_alias): each for each in FailedObject.objects.using(db_alias)}


def item_of(failed, db_alias):
    return int(Item.objects.using(db_alias).get(pk=failed.object_pk[0]).name)


def calls(db_alias):
    return sorted(Call.objects.using(db_alias).values_list("item", flat=True))


def status(db_alias):
    return MigrationRecord.objects.using(db_alias).get().status


def test_of_failed_objects_only_the_chosen_are_done_again_and_each_once(db_alias, failed):
    api.retry_failed(KEY, db_alias, ids=[failed[6].pk])
    assert (calls(db_alias), status(db_alias)) == ([0, 1, 2, 4, 5, 6, 7, 8], Status.FAILED)

    api.retry_failed(KEY, db_alias, fingerprint=failed[9].fingerprint)
    assert (calls(db_alias), status(db_alias)) == ([0, 1, 2, 4, 5, 6, 7, 8, 9], Status.FAILED)

    api.retry(KEY, db_alias)
    assert (calls(db_alias), status(db_alias)) == (list(range(10)), Status.APPLIED)


def test_a_retry_without_a_choice_does_all_of_them_again(db_alias, failed):
    api.retry_failed(KEY, db_alias)

    assert status(db_alias) == Status.APPLIED


def test_failures_of_one_cause_are_one_group(db_alias, failed):
    assert failed[3].fingerprint == failed[6].fingerprint != failed[9].fingerprint


def test_a_retry_that_was_cut_short_leaves_no_shard_that_does_an_object_again(db_alias, failed, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    MigrationRecord.objects.using(db_alias).update(backend=settings.MASSMIGRATION_BACKEND)
    api.retry_failed(KEY, db_alias)
    api.cancel(KEY, db_alias)
    api.retry_failed(KEY, db_alias, ids=[failed[3].pk])

    undone = ShardRecord.objects.using(db_alias).filter(is_retry=True, is_done=False)
    assert undone.count() == 1


def test_what_is_resolved_is_not_done_and_a_retry_makes_it_applied(db_alias, failed):
    count = api.resolve(KEY, db_alias, reason=" They are test data. ", actor="ann")
    api.retry(KEY, db_alias)

    assert count == 3
    assert (calls(db_alias), status(db_alias)) == ([0, 1, 2, 4, 5, 7, 8], Status.APPLIED)
    assert set(FailedObject.objects.using(db_alias).values_list("resolution", flat=True)) == {"They are test data."}
    event = Event.objects.using(db_alias).get(verb="resolve")
    assert (event.actor, event.source, event.detail) == ("ann", "code", "3 failed objects: They are test data.")


@pytest.mark.parametrize("choice", [{"ids": [0]}, {"fingerprint": "none"}, {"ids": []}], ids=["id", "group", "nothing"])
def test_a_choice_of_nothing_is_refused(db_alias, failed, choice):
    with pytest.raises(CannotResolve, match="None of these failed objects"):
        api.retry_failed(KEY, db_alias, **choice)
    with pytest.raises(CannotResolve, match="None of these failed objects"):
        api.resolve(KEY, db_alias, reason="none", **choice)

    assert FailedObject.objects.using(db_alias).filter(resolved_at=None, is_excluded=False).count() == 3
    assert status(db_alias) == Status.FAILED


@pytest.mark.parametrize(
    "wrong",
    ["abc", "1", -1, True, None, 1.0, 2**63, 10**5000],
    ids=["text", "digits", "negative", "bool", "None", "float", "too great", "huge"],
)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_is_no_id_is_refused(db_alias, failed, wrong):
    ids = [failed[3].pk, wrong]

    with pytest.raises(CannotResolve, match="which is not the id of a failed object"):
        api.retry_failed(KEY, db_alias, ids=ids)
    with pytest.raises(CannotResolve, match="which is not the id of a failed object"):
        api.resolve(KEY, db_alias, reason="none", ids=ids)

    assert FailedObject.objects.using(db_alias).filter(resolved_at=None, is_excluded=False).count() == 3


@pytest.mark.parametrize("of", ["another migration", "what is resolved"])
def test_an_id_that_is_not_listed_refuses_the_whole_choice(db_alias, failed, of):
    if of == "another migration":
        MigrationRecord.objects.using(db_alias).create(key="testapp:0001_once", status=Status.FAILED)
        FailedObject.objects.using(db_alias).filter(pk=failed[9].pk).update(record_id="testapp:0001_once")
    else:
        api.resolve(KEY, db_alias, reason="none", ids=[failed[9].pk])
    ids = [failed[3].pk, failed[9].pk]

    with pytest.raises(CannotResolve, match=f"Of these 2 failed objects, only 1 belong to migration '{KEY}'"):
        api.retry_failed(KEY, db_alias, ids=ids)
    with pytest.raises(CannotResolve, match="Nothing was changed"):
        api.resolve(KEY, db_alias, reason="none", ids=ids)

    assert calls(db_alias) == [0, 1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_too_many_ids_and_no_reason_are_refused(db_alias, failed):
    with pytest.raises(CannotResolve, match=f"Found {MAX_IDS + 1} ids of failed objects"):
        api.retry_failed(KEY, db_alias, ids=range(MAX_IDS + 1))
    with pytest.raises(CannotResolve, match="A reason is required"):
        api.resolve(KEY, db_alias, reason=" ")


def test_nothing_is_resolved_while_workers_may_be_at_it(db_alias, failed):
    MigrationRecord.objects.using(db_alias).update(status=Status.RUNNING)

    with pytest.raises(InvalidTransition, match="Cannot resolve"):
        api.resolve(KEY, db_alias, reason="none")

    assert not FailedObject.objects.using(db_alias).exclude(resolved_at=None).exists()


def test_an_object_that_a_retry_would_begin_with_cannot_be_resolved(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    register(monkeypatch, Stopping)
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(5))
    launch(KEY, db_alias)

    with pytest.raises(CannotResolve, match="stopped before one of these objects"):
        api.resolve(KEY, db_alias, reason="none")
