"""The context of operations that are done once."""

import uuid

import pytest

from massmigration import api, dryrun
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import BaseMigration, StageContext
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.marks import only_sqlite

KEY = "testapp:9000_adhoc"


class Migration(BaseMigration):
    atomic = True
    seen: StageContext

    def get_stages(self):
        return [self.once(self.first), self.once(self.second, takes_context=True)]

    def first(self, db_alias):
        pass

    def second(self, db_alias, context):
        type(self).seen = context
        self.do(db_alias, context)

    def do(self, db_alias, context):
        context.add_event("half of it is done")
        assert context.is_current()
        assert not context.stop_requested()


class WithoutTransaction(Migration):
    atomic = False


@pytest.fixture
def launch(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE

    def launch(cls):
        register(monkeypatch, cls)
        api.launch(KEY, db_alias)
        return MigrationRecord.objects.using(db_alias).get()

    return launch


@pytest.mark.parametrize("cls", [Migration, WithoutTransaction])
def test_an_operation_knows_its_attempt_and_its_stage(db_alias, launch, cls):
    record = launch(cls)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert (cls.seen.key, cls.seen.db_alias, cls.seen.stage) == (KEY, db_alias, 1)
    assert cls.seen.attempt_id == str(record.attempt_id)
    event = Event.objects.using(db_alias).get(verb="note")
    assert (event.detail, event.attempt_id) == ("half of it is done", record.attempt_id)


def superseded(db_alias, context, **values):
    was = context.is_current()
    MigrationRecord.objects.using(db_alias).update(**values)
    return was, context.is_current()


@pytest.mark.parametrize(
    "values",
    [{"status": Status.CANCELLED}, {"attempt_id": uuid.UUID(int=1)}, {"stage": 2}],
    ids=["status", "attempt", "stage"],
)
def test_it_is_not_current_if_the_record_has_moved_on(db_alias, launch, values):
    found = []

    class Superseded(WithoutTransaction):
        def do(self, db_alias, context):
            found.append(superseded(db_alias, context, **values))

    launch(Superseded)

    assert found == [(True, False)]


def test_it_is_not_current_if_another_worker_has_taken_it_over(db_alias, launch):
    found = []

    class TakenOver(WithoutTransaction):
        def do(self, db_alias, context):
            found.append(context.is_current())
            ShardRecord.objects.using(db_alias).filter(stage=1).update(lease_token=uuid.uuid4())
            found.append(context.is_current())
            ShardRecord.objects.using(db_alias).filter(stage=1).update(is_done=True)  # by the other worker

    launch(TakenOver)

    assert found == [True, False]


@only_sqlite
def test_an_event_commits_with_the_operation(db_alias, launch):
    class Failing(Migration):
        def do(self, db_alias, context):
            context.add_event("half of it is done")
            raise ValueError("no")

    assert launch(Failing).status == Status.FAILED
    assert not Event.objects.using(db_alias).filter(verb="note").exists()


@only_sqlite
def test_a_dry_run_has_a_context_too(db_alias, monkeypatch):
    class First(Migration):
        def get_stages(self):
            return super().get_stages()[1:]

    register(monkeypatch, First)

    found = dryrun.dry_run(KEY, db_alias)

    assert [result.error for result in found.objects] == [""]
    assert (First.seen.attempt_id, Event.objects.using(db_alias).count()) == ("", 0)


@only_sqlite
def test_an_operation_that_does_not_take_it_is_refused(db_alias, launch):
    class Wrong(Migration):
        def second(self, db_alias):
            pass

    with pytest.raises(BadMigrationFile, match=r"Define it as operation\(self, db_alias, context\)"):
        launch(Wrong)
