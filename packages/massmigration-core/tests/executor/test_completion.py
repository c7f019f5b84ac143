import uuid

import pytest
from django.db.models import F, Value

from massmigration.executor import processors
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from testsupport import oracle
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
from testsupport.testapp.models import Item, Token
from testsupport.worker_processes import Fleet, wait_until

FIRST, LAST = uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)
KEY = "testapp:0015_tokens"


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 3


def make_tokens(db_alias, count, **fields):
    Token.objects.using(db_alias).bulk_create(Token(id=uuid.uuid4(), **fields) for _ in range(count))


def done(db_alias):
    """Return the different numbers of times that a token was processed: [1] if each was processed once."""
    return sorted(set(Token.objects.using(db_alias).values_list("n", flat=True)))


class Shrinking(MapperMigration):
    """Has a queryset that processed tokens leave, and that gains tokens with the lowest key as `arrivals` says."""

    arrivals = 0

    def get_queryset(self, db_alias):
        return Token.objects.filter(note="")

    def arrive(self, db_alias):
        if self.arrivals:
            self.arrivals -= 1
            Token.objects.using(db_alias).create(id=uuid.UUID(int=self.arrivals))


class ByObject(Shrinking):
    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.note = "done"
        obj.save()
        self.arrive(db_alias)


class ByFields(Shrinking):
    update_fields = ["n", "note"]

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.note = "done"
        self.arrive(db_alias)


class ByBatch(Shrinking):
    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1, note=Value("done"))
        self.arrive(db_alias)


class Stepwise(ByObject):
    atomic = False


class StepwiseByBatch(ByBatch):
    atomic = False


class Growing(Shrinking):
    """Has a queryset to which old code adds rows without end."""

    arrivals = 10_000

    def operation(self, obj, db_alias):
        ByObject.operation(self, obj, db_alias)


class Staying(MapperMigration):
    """Has a queryset that the second half of the objects never leaves."""

    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        if obj.name == "leaves":
            obj.slug = "done"
        obj.n = F("n") + 1
        obj.save()


class StayingByBatch(Staying):
    operation = MapperMigration.operation

    def operation_batch(self, queryset, db_alias):
        pks = list(queryset.values_list("pk", flat=True))
        mine = Item.objects.using(db_alias).filter(pk__in=pks)
        mine.update(n=F("n") + 1)
        mine.filter(name="leaves").update(slug="done")


class StayingStepwise(Staying):
    atomic = False


class Proven(Shrinking):
    def remaining(self, db_alias):
        return Token.objects.using(db_alias).filter(note="").count()

    def operation(self, obj, db_alias):
        ByObject.operation(self, obj, db_alias)


class ProvenAndGrowing(Proven):
    arrivals = 10_000


class WronglyFiltered(Proven):
    """Counts objects in `remaining` that are not in the queryset."""

    def get_queryset(self, db_alias):
        return Token.objects.filter(note="", n=0).exclude(id=LAST)


class NeverFiltered(Proven):
    def get_queryset(self, db_alias):
        return Token.objects.all()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save()


class Twice(MapperMigration):
    """Fails once on an object, and tolerates the failure."""

    on_error = "continue"
    fails = True

    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        if self.fails and obj.name == "Item 2":
            raise ValueError("Not this one.")
        obj.slug = "done"
        obj.n = F("n") + 1
        obj.save()


@pytest.mark.parametrize("way", [ByObject, ByFields, ByBatch, Stepwise, StepwiseByBatch])
def test_what_comes_in_behind_the_cursor_is_done_once(db_alias, monkeypatch, way):
    make_tokens(db_alias, 8)
    way = type(way.__name__, (way,), {"arrivals": 2})

    record = launch(register(monkeypatch, way), db_alias)

    assert (record.status, record.last_error, done(db_alias)) == ("applied", "", [1])
    assert (Token.objects.using(db_alias).count(), oracle.tally(db_alias)[0], record.total) == (10, 10, 10)
    assert record.pass_number > 0


@pytest.mark.parametrize("way", [Staying, StayingByBatch, StayingStepwise])
@pytest.mark.parametrize("names", [["leaves"] * 4 + ["stays"], ["stays"] + ["leaves"] * 4], ids=["last", "first"])
def test_where_one_object_stays_nothing_is_done_again(db_alias, monkeypatch, way, names):
    Item.objects.using(db_alias).bulk_create(Item(name=name) for name in names)

    record = launch(register(monkeypatch, way), db_alias)

    assert (record.status, record.pass_number, oracle.counts(db_alias)) == ("applied", 0, [1])
    assert ShardRecord.objects.using(db_alias).filter(still_matched=True).count() == 1


def test_rows_that_come_into_the_range_of_a_batch_do_not_look_like_rows_that_stay(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_BATCH_SIZE = 500
    make_tokens(db_alias, 8)
    calls = []

    class Migration(Shrinking):
        batch_size = 4

        def operation_batch(self, queryset, db_alias):
            ByBatch.operation_batch(self, queryset, db_alias)
            calls.append(1)
            if len(calls) == 2:
                upper = Token.objects.using(db_alias).order_by("-id").values_list("id", flat=True)[0]
                Token.objects.using(db_alias).create(id=uuid.UUID(int=upper.int - 1))

    record = launch(register(monkeypatch, Migration), db_alias)

    # The second batch was rolled back, and with it the row that was inserted in its transaction.
    assert (record.status, done(db_alias), len(calls) >= 3) == ("applied", [1], True)
    assert not ShardRecord.objects.using(db_alias).filter(still_matched=True).exists()


def test_without_catching_up_nothing_is_looked_for(db_alias, monkeypatch):
    make_tokens(db_alias, 8)
    way = type("Once", (ByObject,), {"arrivals": 7, "catch_up": False})

    record = launch(register(monkeypatch, way), db_alias)

    assert (record.status, record.pass_number, done(db_alias)) == ("applied", 0, [0, 1])


def test_a_queryset_without_a_condition_costs_nothing_more(db_alias, monkeypatch):
    oracle.make_items(db_alias, 8)
    asked = []
    monkeypatch.setattr(processors.MappedProcessor, "_has_any_of", lambda *args: asked.append(1))
    way = type("All", (Staying,), {"get_queryset": lambda self, db_alias: Item.objects.all()})

    record = launch(register(monkeypatch, way), db_alias)

    assert (record.status, asked, oracle.counts(db_alias)) == ("applied", [], [1])


def test_the_passes_end_when_they_leave_no_fewer(db_alias, monkeypatch):
    make_tokens(db_alias, 8)

    record = launch(register(monkeypatch, Growing), db_alias)

    assert record.status == "applied"
    assert record.pass_number < 20
    event = Event.objects.using(db_alias).get(verb="applied")
    assert "its queryset has" in event.detail


def test_remaining_zero_is_applied(db_alias, monkeypatch):
    make_tokens(db_alias, 8)
    way = type("Proven2", (Proven,), {"arrivals": 5})

    record = launch(register(monkeypatch, way), db_alias)

    assert (record.status, done(db_alias)) == ("applied", [1])


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (ProvenAndGrowing, "the last passes did not lower it"),
        (WronglyFiltered, "no further pass can process them"),
        (NeverFiltered, "no further pass can process them"),
    ],
)
def test_anything_remaining_is_never_applied(db_alias, monkeypatch, way, reason):
    make_tokens(db_alias, 4)
    Token.objects.using(db_alias).create(id=LAST)

    record = launch(register(monkeypatch, way), db_alias)

    assert record.status == "failed"
    assert reason in record.last_error
    assert Token.objects.using(db_alias).filter(n__gt=1).count() == 0


def test_a_retry_asks_what_remains_again(db_alias, monkeypatch):
    make_tokens(db_alias, 4)
    Token.objects.using(db_alias).create(id=LAST)
    key = register(monkeypatch, WronglyFiltered)
    assert launch(key, db_alias).status == "failed"
    Token.objects.using(db_alias).filter(id=LAST).update(note="done by hand", n=1)

    record = retry(key, db_alias)

    assert (record.status, done(db_alias)) == ("applied", [1])


@pytest.mark.parametrize("answer", [None, -1, True, "3"], ids=repr)
def test_remaining_must_be_a_count(db_alias, monkeypatch, answer):
    way = type("Odd", (Proven,), {"remaining": lambda self, db_alias: answer})

    record = launch(register(monkeypatch, way), db_alias)

    assert record.status == "failed"
    assert "it must return a count" in record.last_error


def test_failed_objects_come_first_and_their_retry_is_proved_too(db_alias, monkeypatch):
    oracle.make_items(db_alias, 8)
    key = register(monkeypatch, Twice)
    failed = launch(key, db_alias)
    monkeypatch.setattr(Twice, "fails", False)

    record = retry(key, db_alias)

    assert (failed.status, failed.pass_number) == ("failed", 0)
    assert (record.status, oracle.counts(db_alias)) == ("applied", [1])


@pytest.mark.slow
@pytest.mark.parametrize("gap", ["next pass not sent", "looking at what is left", "planning again"])
def test_a_kill_between_two_passes_loses_and_repeats_nothing(db_alias, gap):
    make_tokens(db_alias, 24, note="")
    with Fleet(db_alias, LEASE=10, BATCH_SIZE=3, SHARDS=1) as fleet:
        victim = fleet.start(fleet.launch(KEY), die_at=gap, pause=0.3)
        wait_until(lambda: Token.objects.using(db_alias).filter(n=1).exists())
        Token.objects.using(db_alias).create(id=FIRST)
        victim.hurry()
        victim.wait()
        fleet.expire_leases()
        fleet.start()
        fleet.wait_until_applied()

    assert (done(db_alias), Token.objects.using(db_alias).count()) == ([1], 25)
    assert MigrationRecord.objects.using(db_alias).get().pass_number == 1


@pytest.mark.slow
def test_inserts_from_everywhere_during_a_run_are_all_done(db_alias):
    make_tokens(db_alias, 60)
    late = 0  # rows inserted after the migration was applied; on SQLite, each waits for the next gap
    with Fleet(db_alias, threads=2, LEASE=5, BATCH_SIZE=5, BATCH_DURATION=0.05, SHARDS=4) as fleet:
        fleet.start(fleet.launch(KEY), pause=0.05)
        wait_until(lambda: fleet.status() != "queued")
        for _ in range(30):
            make_tokens(db_alias, 1)
            late += fleet.status() == "applied"
        fleet.wait_until_applied()

    assert late < 30
    assert set(done(db_alias)) <= {0, 1}
    assert Token.objects.using(db_alias).filter(n=1).count() >= 90 - late
