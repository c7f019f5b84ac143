"""Repeated errors at one cursor, which are recorded and finally fail the migration."""

import contextlib
import datetime as dt
import threading
from types import SimpleNamespace

import pytest
from django.db import OperationalError, ProgrammingError, connections, transaction
from django.db.models import F, QuerySet

from massmigration import api
from massmigration.exceptions import StatementTimedOut
from massmigration.executor import errors, job, throttle
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import shards
from massmigration.states import Status
from testsupport.concurrent_writers import elsewhere, end_session
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.db_sessions import session_id
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry, unresolved
from testsupport.testapp.models import Place, Tag
from testsupport.threads import PATIENCE

ROWS = 12
BAD = 7


@pytest.fixture(autouse=True)
def short_rounds(settings, monkeypatch):
    """Two rounds of two tries each, without waits."""
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_MAX_STALLED_TRIES = 2
    monkeypatch.setattr(errors, "TRIES", 2)
    monkeypatch.setattr(errors, "MAX_BACK_OFF", 0)
    monkeypatch.setattr(errors, "UNNOTED_TRIES", 0)
    monkeypatch.setattr(throttle, "sleep", lambda *arguments: None)


@pytest.fixture
def places(request):
    alias = request.getfixturevalue("server_alias" if "server_alias" in request.fixturenames else "db_alias")
    Place.objects.using(alias).bulk_create(
        Place(name="bad" if number == BAD else f"place {number}") for number in range(ROWS)
    )
    return list(Place.objects.using(alias).order_by("pk").values_list("pk", flat=True))


def counts(db_alias):
    return list(Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


class Counting(MapperMigration):
    """Counts each place, and calls `disturb` at the bad one."""

    batch_size = 5

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        if obj.name == "bad":
            self.disturb(db_alias)
            Tag.objects.using(db_alias).count()


def disturbed(disturb, **attributes):
    return type("Migration", (Counting,), {"disturb": lambda self, db_alias: disturb(db_alias), **attributes})


def kill_own_session(db_alias):
    end_session(db_alias, session_id(db_alias))


def close_all(db_alias):
    connections.close_all()


def send_too_much(db_alias):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT LENGTH(%s)", ["x" * 20_000_000])


KILLERS = {
    "postgresql-ended": ("postgresql", kill_own_session, True),
    "postgresql-ended-stepwise": ("postgresql", kill_own_session, False),
    "postgresql-closed": ("postgresql", close_all, True),
    "mariadb-ended": ("mariadb", kill_own_session, True),
    "mariadb-ended-stepwise": ("mariadb", kill_own_session, False),
    "mariadb-closed": ("mariadb", close_all, True),
    "mariadb-too-large": ("mariadb", send_too_much, True),
    "mariadb-too-large-stepwise": ("mariadb", send_too_much, False),
    "mysql-ended": ("mysql", kill_own_session, True),
    "mysql-ended-stepwise": ("mysql", kill_own_session, False),
    "mysql-closed": ("mysql", close_all, True),
    "mysql-too-large": ("mysql", send_too_much, True),
    "mysql-too-large-stepwise": ("mysql", send_too_much, False),
}


@pytest.mark.parametrize(
    ("server_alias", "disturb", "atomic"), KILLERS.values(), ids=KILLERS, indirect=["server_alias"]
)
def test_a_row_that_ends_its_connection_each_time_ends_the_run(server_alias, places, monkeypatch, disturb, atomic):
    record = launch(register(monkeypatch, disturbed(disturb, atomic=atomic)), server_alias)

    assert (record.status, "Shard 0 has made no progress" in record.last_error) == (Status.FAILED, True)
    assert FailedObject.objects.using(server_alias).filter(resolved_at=None).count() == 1
    assert ShardRecord.objects.using(server_alias).get().cursor == [places[BAD - 1]]
    if atomic:
        assert counts(server_alias) == [1] * BAD + [0] * (ROWS - BAD)


def test_the_run_says_what_it_has_failed_with(server_alias, places, monkeypatch):
    record = launch(register(monkeypatch, disturbed(kill_own_session)), server_alias)

    code = DATABASE_SERVERS[server_alias].lost_connection
    assert "Shard 0 has made no progress since" in record.last_error
    assert f"in 2 rounds of 2 tries at its cursor [{places[BAD - 1]}]. The last error: " in record.last_error
    assert code in record.last_error
    assert unresolved(server_alias).exception_class.endswith(("OperationalError", "InterfaceError"))


def test_until_then_the_shard_says_what_keeps_it(server_alias, places, monkeypatch):
    seen = []

    def look_and_kill(db_alias):
        def look():
            seen.append(
                ShardRecord.objects.using(db_alias).values_list("stalled_tries", "stalled_since", "stalled_error").get()
            )

        elsewhere(look).join(PATIENCE)
        kill_own_session(db_alias)

    launch(register(monkeypatch, disturbed(look_and_kill)), server_alias)

    assert [tries for tries, _, _ in seen] == [0, 0, 0, 1, 1]
    first, *_, last = [stall for stall in seen if stall[1]]
    assert first[1] == last[1]
    assert "Error" in last[2]


@pytest.fixture
def locked_row(request, db_alias):
    """A row that another transaction holds, until the returned function is called."""
    tag = Tag.objects.using(db_alias).create(name="held")

    holds, over = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic(using=db_alias):
            Tag.objects.using(db_alias).filter(pk=tag.pk).update(name="theirs")
            holds.set()
            over.wait(PATIENCE)

    thread = elsewhere(hold)
    assert holds.wait(PATIENCE)

    def release():
        over.set()
        thread.join(PATIENCE)

    yield release
    release()


class Waits:
    """An obstacle that the first calls meet, as many as given."""

    def __init__(self, obstacle, times, end=lambda: None):
        self.obstacle, self.times, self.end = obstacle, times, end
        self.met = 0
        self.seen = []

    def __call__(self, db_alias):
        if self.met == self.times:
            return
        self.met += 1
        if self.met == self.times:
            self.seen.append(ShardRecord.objects.using(db_alias).get())
            self.end()
        self.obstacle(db_alias)


def want_locked_row(db_alias):
    Tag.objects.using(db_alias).select_for_update(nowait=True).get(name__in=["held", "theirs"])


@pytest.mark.parametrize("db_alias", ["postgresql", "mariadb", "mysql"], indirect=True)
def test_locks_are_waited_for_for_ever_and_the_shard_says_so(db_alias, places, locked_row, monkeypatch):
    waits = Waits(want_locked_row, 12)

    record = launch(register(monkeypatch, disturbed(waits)), db_alias)

    (shard,) = waits.seen
    assert (shard.stalled_tries, shard.stalled_since is None) == (0, False)
    assert shard.stalled_error.startswith("Waiting: OperationalError: ")
    assert (record.status, counts(db_alias)) == (Status.APPLIED, [1] * ROWS)


def refuse_to_write(db_alias):
    with transaction.atomic(using=db_alias), connections[db_alias].cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        cursor.execute("UPDATE testapp_place SET n = n + 1")


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_read_only_server_is_waited_for_for_ever(server_alias, places, monkeypatch):
    waits = Waits(refuse_to_write, 12)

    record = launch(register(monkeypatch, disturbed(waits)), server_alias)

    assert "Waiting: " in waits.seen[0].stalled_error
    assert (record.status, counts(server_alias)) == (Status.APPLIED, [1] * ROWS)


def lock_up(db_alias):
    raise OperationalError("database is locked")


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_locked_sqlite_is_waited_for_for_ever(db_alias, places, monkeypatch):
    waits = Waits(lock_up, 12)

    record = launch(register(monkeypatch, disturbed(waits)), db_alias)

    assert waits.seen[0].stalled_error == "Waiting: OperationalError: database is locked"
    assert (record.status, counts(db_alias)) == (Status.APPLIED, [1] * ROWS)


def test_progress_ends_the_count(server_alias, places, monkeypatch):
    Place.objects.using(server_alias).filter(pk__in=places[4:]).delete()

    class Unsteady(Counting):
        batch_size = 1
        calls = 0

        def disturb(self, db_alias):
            raise AssertionError

        def operation(self, obj, db_alias):
            Unsteady.calls += 1
            Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
            if Unsteady.calls % 4:  # three failed tries of each: more than a round
                kill_own_session(db_alias)
                Tag.objects.using(db_alias).count()

    record = launch(register(monkeypatch, Unsteady), server_alias)

    shard = ShardRecord.objects.using(server_alias).get()
    assert (record.status, counts(server_alias)) == (Status.APPLIED, [1] * 4)
    assert (shard.stalled_tries, shard.stalled_since, shard.stalled_error) == (0, None, "")


def test_a_retry_begins_the_count_anew(server_alias, places, monkeypatch):
    waits = Waits(kill_own_session, 1000)
    key = register(monkeypatch, disturbed(waits))
    assert launch(key, server_alias).status == Status.FAILED
    waits.times = waits.met + 3  # more than one round

    record = retry(key, server_alias)

    shard = ShardRecord.objects.using(server_alias).get()
    assert (record.status, counts(server_alias)) == (Status.APPLIED, [1] * ROWS)
    assert (shard.stalled_tries, shard.stalled_since, shard.stalled_error) == (0, None, "")


class Stubborn(QuerySet):
    """A queryset that finds its rows again and again, as with keys that the database compares with other values."""

    def filter(self, *args, **kwargs):
        return self.all()


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_cursor_that_stays_ends_the_run_before_rows_are_done_twice(db_alias, places, monkeypatch, atomic):
    key = register(
        monkeypatch,
        disturbed(lambda db_alias: None, atomic=atomic, get_queryset=lambda self, db_alias: Stubborn(Place)),
    )

    record = launch(key, db_alias)

    assert (record.status, unresolved(db_alias).exception_class) == (
        Status.FAILED,
        "massmigration.exceptions.NoProgress",
    )
    assert f"The batch after key [{places[4]}] ends with the same key, although it has 5 rows" in record.last_error
    assert counts(db_alias) == [1] * 5 + [0] * (ROWS - 5)


def test_an_error_outside_of_batches_ends_the_run_too(db_alias, places, monkeypatch):
    def refuse(*arguments):
        raise ProgrammingError("no such thing")

    key = register(monkeypatch, disturbed(lambda db_alias: None))
    monkeypatch.setattr(shards, "claim", refuse)
    record = launch(key, db_alias)
    assert (record.status, record.stalled_tries, record.stalled_error) == (
        Status.RUNNING,
        1,
        "ProgrammingError: no such thing",
    )

    api.send(key, db_alias)

    record.refresh_from_db()
    assert record.status == Status.FAILED
    assert record.last_error == "2 consecutive jobs failed. The last error: ProgrammingError: no such thing"


@pytest.mark.parametrize(("number", "tries"), [(1213, 2), (1205, 1)], ids=["deadlock", "lock wait"])
def test_a_claim_that_meets_a_deadlock_is_tried_again_at_once(db_alias, monkeypatch, number, tries):
    claims = []

    def claim(*arguments):
        claims.append(arguments)
        if len(claims) == 1:
            raise OperationalError(number, "Try restarting transaction")
        return "claimed"

    monkeypatch.setattr(shards, "claim", claim)
    with contextlib.suppress(OperationalError):
        assert job._claim(SimpleNamespace(db_alias=db_alias)) == "claimed"

    assert len(claims) == tries


def test_a_shard_that_moves_ends_the_records_count(db_alias, places, monkeypatch, settings):
    claims = []

    def claim(*arguments):
        claims.append(len(claims) + 1)
        return 1 / 0 if claims[-1] in (1, 3) else original(*arguments)

    original = shards.claim
    monkeypatch.setattr(shards, "claim", claim)
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(microseconds=1)  # of one batch
    key = register(monkeypatch, disturbed(lambda db_alias: None))
    assert launch(key, db_alias).stalled_error == "ZeroDivisionError: division by zero"

    api.send(key, db_alias)

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, record.stalled_tries, claims) == (Status.RUNNING, 1, [1, 2, 3])
    api.send(key, db_alias)
    record.refresh_from_db()
    assert (record.status, record.stalled_tries, record.stalled_error) == (Status.APPLIED, 0, "")


def test_a_plan_that_loses_its_connection_each_time_ends_the_run(server_alias, places, monkeypatch):
    def kill(self, db_alias):
        kill_own_session(db_alias)
        return Place.objects.filter(pk__in=list(Place.objects.using(db_alias).values_list("pk", flat=True)))

    record = launch(register(monkeypatch, disturbed(lambda db_alias: None, get_queryset=kill)), server_alias)

    assert (record.status, record.stalled_tries) == (Status.FAILED, 2)
    assert "2 consecutive jobs failed. The last error: " in record.last_error


def test_a_count_of_what_remains_that_loses_its_connection_each_time_ends_the_run(server_alias, places, monkeypatch):
    def kill(self, db_alias):
        kill_own_session(db_alias)
        return Place.objects.using(db_alias).count()

    record = launch(register(monkeypatch, disturbed(lambda db_alias: None, remaining=kill)), server_alias)

    assert record.status == Status.FAILED
    assert "2 consecutive jobs failed. The last error: " in record.last_error


def time_out(db_alias):
    with transaction.atomic(using=db_alias), connections[db_alias].cursor() as cursor:
        for statement in DATABASE_SERVERS[db_alias].timed_out:
            cursor.execute(statement)


def limited(most):
    """Take too long for more than so many rows."""

    class Limited(MapperMigration):
        batch_size = 8
        sizes = []

        def get_queryset(self, db_alias):
            return Place.objects.all()

        def operation_batch(self, queryset, db_alias):
            Limited.sizes.append(queryset.count())
            if queryset.count() > most:
                time_out(db_alias)
            queryset.update(n=F("n") + 1)

    return Limited


def test_a_batch_that_takes_too_long_is_tried_with_half_the_rows(server_alias, places, monkeypatch):
    migration = limited(2)

    record = launch(register(monkeypatch, migration), server_alias)

    assert (record.status, counts(server_alias)) == (Status.APPLIED, [1] * ROWS)
    assert migration.sizes[:3] == [8, 4, 2]


def test_a_single_row_that_takes_too_long_fails_with_advice(server_alias, places, monkeypatch):
    record = launch(register(monkeypatch, limited(0)), server_alias)

    assert (record.status, unresolved(server_alias).object_pk) == (Status.FAILED, [places[0]])
    assert "Raise the limit for the user that runs mass migrations" in record.last_error


def test_what_is_done_once_and_takes_too_long_fails_with_advice(server_alias, monkeypatch):
    key = register(monkeypatch, type("M", (SimpleMigration,), {"operation": lambda self, db_alias: time_out(db_alias)}))

    record = launch(key, server_alias)

    assert record.status == Status.FAILED
    assert "Raise the limit for the user that runs mass migrations" in record.last_error


def test_a_plan_that_takes_too_long_fails_with_advice(server_alias, places, monkeypatch):
    key = register(
        monkeypatch,
        disturbed(lambda db_alias: None, get_queryset=lambda self, db_alias: time_out(db_alias) or Place.objects.all()),
    )

    record = launch(key, server_alias)

    assert (record.status, record.is_planned) == (Status.FAILED, False)
    assert "Raise the limit for the user that runs mass migrations" in record.last_error


@contextlib.contextmanager
def limited_to(db_alias, seconds):
    server = DATABASE_SERVERS[db_alias]
    with connections[db_alias].cursor() as cursor:
        cursor.execute(server.limit_statements(seconds))
        try:
            yield
        finally:
            cursor.execute(server.limit_statements(0))


@pytest.mark.parametrize("server_alias", ["postgresql", "mariadb"], indirect=True)  # MySQL limits SELECT alone
def test_a_launch_that_takes_too_long_says_so_with_advice(server_alias, places, monkeypatch):
    key = register(monkeypatch, disturbed(lambda db_alias: None))
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        """Launch it, too, but never to the end: who comes later waits for the row."""
        with transaction.atomic(using=server_alias):
            MigrationRecord.objects.using(server_alias).create(key=key)
            is_held.set()
            is_over.wait(PATIENCE)
            transaction.set_rollback(True, using=server_alias)

    holder = elsewhere(hold)
    assert is_held.wait(PATIENCE)
    told = r"(?s)Nothing was changed: .*Raise the"
    with limited_to(server_alias, 0.2), pytest.raises(StatementTimedOut, match=told):
        api.launch(key, server_alias)
    is_over.set()
    holder.join(PATIENCE)

    assert not MigrationRecord.objects.using(server_alias).exists()


def be_cancelled(db_alias):
    """Execute a long statement, which another session cancels."""

    server, session, over = DATABASE_SERVERS[db_alias], session_id(db_alias), threading.Event()

    def cancel():
        with connections[db_alias].cursor() as cursor:
            while not over.wait(0.05):
                cursor.execute(server.cancel_statement, [session])

    thread = elsewhere(cancel)
    try:
        with connections[db_alias].cursor() as cursor:
            cursor.execute(server.long_statement)
    finally:
        over.set()
        thread.join(PATIENCE)


def test_a_cancelled_query_is_tried_again_as_a_batch(server_alias, places, monkeypatch):
    waits = Waits(be_cancelled, 1)

    record = launch(register(monkeypatch, disturbed(waits)), server_alias)

    assert (record.status, counts(server_alias)) == (Status.APPLIED, [1] * ROWS)
    assert not Event.objects.using(server_alias).filter(verb="replay").exists()


def test_queries_that_are_cancelled_again_and_again_end_the_run(server_alias, places, monkeypatch):
    record = launch(register(monkeypatch, disturbed(be_cancelled)), server_alias)

    assert record.status == Status.FAILED
    assert "Shard 0 has made no progress" in record.last_error


@pytest.fixture
def strict(request):
    """A trigger that refuses bad places, at the commit."""
    with connections["postgresql"].cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION massmigration_refuse() RETURNS trigger AS $$ BEGIN "
            "IF NEW.name = 'bad' THEN RAISE EXCEPTION 'bad place'; END IF; RETURN NULL; END $$ LANGUAGE plpgsql"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER massmigration_strict AFTER UPDATE ON testapp_place DEFERRABLE "
            "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION massmigration_refuse()"
        )
    yield
    with connections["postgresql"].cursor() as cursor:
        cursor.execute("DROP TRIGGER massmigration_strict ON testapp_place")
        cursor.execute("DROP FUNCTION massmigration_refuse")


class BySave(Counting):
    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save()


class ByFields(Counting):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n += 1


class ByBatch(MapperMigration):
    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
@pytest.mark.parametrize("way", [BySave, ByFields, ByBatch], ids=["object", "fields", "batch"])
@pytest.mark.parametrize("batch_size", [5, 1])
def test_a_trigger_that_raises_at_the_commit_finds_its_object(
    server_alias, places, strict, monkeypatch, way, batch_size
):
    key = register(monkeypatch, type("Migration", (way,), {"batch_size": batch_size}))

    record = launch(key, server_alias)

    failure = unresolved(server_alias)
    assert (record.status, failure.object_pk, "bad place" in failure.message) == (Status.FAILED, [places[BAD]], True)
    assert counts(server_alias) == [1] * BAD + [0] * (ROWS - BAD)


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_trigger_that_raises_at_the_commit_fails_what_is_done_once(server_alias, places, strict, monkeypatch, atomic):
    def operation(self, db_alias):
        Place.objects.using(db_alias).update(n=1)

    key = register(monkeypatch, type("Migration", (SimpleMigration,), {"operation": operation, "atomic": atomic}))

    record = launch(key, server_alias)

    assert (record.status, "bad place" in record.last_error) == (Status.FAILED, True)
    assert counts(server_alias) == [0] * ROWS


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_without_a_transaction_a_trigger_that_raises_at_the_commit_finds_its_object(
    server_alias, places, strict, monkeypatch
):
    record = launch(register(monkeypatch, type("Migration", (ByFields,), {"atomic": False})), server_alias)

    assert (record.status, unresolved(server_alias).object_pk) == (Status.FAILED, [places[BAD]])
    assert counts(server_alias) == [1] * BAD + [0] * (ROWS - BAD)


VALUES = {"ValueError": ("n", "many"), "UnicodeEncodeError": ("note", "\ud800")}


@pytest.mark.parametrize(("field", "value"), VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_value_that_cannot_be_written_is_its_objects_failure(db_alias, places, monkeypatch, field, value, atomic):
    calls = []

    class Assigning(Counting):
        update_fields = ["n", "note"]

        def operation(self, obj, db_alias):
            calls.append(obj.pk)
            obj.note = "seen"
            if obj.name == "bad":
                setattr(obj, field, value)

    record = launch(register(monkeypatch, type("Migration", (Assigning,), {"atomic": atomic})), db_alias)

    seen = Place.objects.using(db_alias).filter(note="seen").order_by("pk")
    assert (record.status, unresolved(db_alias).object_pk) == (Status.FAILED, [places[BAD]])
    assert list(seen.values_list("pk", flat=True)) == places[:BAD]
    if not atomic:
        assert calls == places[:10]
