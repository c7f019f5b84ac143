"""The number of rows that a migration has changed, if it can be known. It is never wrong."""

import io
import logging
import threading

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections, models
from django.db.models import F
from django.test import Client

from massmigration import api, overview
from massmigration.executor.statements import Statements, watched
from massmigration.management import output
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, ShardRecord
from testsupport.factories import get, text_of
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
from testsupport.testapp.models import Call, Place

ROWS = 10
KEY = "testapp:9000_adhoc"


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def places(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(name=f"p{number}") for number in range(ROWS))


class Places(MapperMigration):
    batch_size = 4

    def get_queryset(self, db_alias):
        return Place.objects.all()


class Unsaved(Places):
    def operation(self, obj, db_alias):
        obj.n = Place.objects.using(db_alias).filter(name__startswith="p").count()


class OtherField(Places):
    update_fields = ["note"]

    def operation(self, obj, db_alias):
        obj.n += 1


class Misspelled(Places):
    update_field = ["n"]

    def operation(self, obj, db_alias):
        obj.n += 1


class Looping(Places):
    def operation_batch(self, queryset, db_alias):
        for place in queryset:
            place.n += 1


IDLE = [Unsaved, OtherField, Misspelled, Looping]


@pytest.mark.parametrize("way", IDLE)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_migration_that_changes_nothing_says_so(db_alias, places, monkeypatch, caplog, way, atomic):
    key = register(monkeypatch, type("Migration", (way,), {"atomic": atomic}))
    stdout, stderr = io.StringIO(), io.StringIO()

    with caplog.at_level(logging.WARNING, "massmigration"):
        call_command("massmigrate", "testapp", "9000_adhoc", "--database", db_alias, stdout=stdout, stderr=stderr)

    told = f"{ROWS} rows processed, 0 changed"
    assert f"{KEY} applied: {told} in " in stdout.getvalue()
    reading = api.status(key, db_alias)
    assert (reading.processed, reading.changed, reading.has_changed_nothing) == (ROWS, 0, True)
    assert Event.objects.using(db_alias).get(verb="applied").detail == f"stage 0; {told}"
    assert f"; {told}." in caplog.text
    (entry,) = [each for each in overview.read(db_alias) if each.key == key]
    assert output.facts(entry) == told
    assert output.as_json(entry)["changed"] == 0


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_the_page_says_that_nothing_was_changed(db_alias, places, monkeypatch):
    launch(register(monkeypatch, Unsaved), db_alias)
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))

    text = text_of(get(client, "detail", KEY, db_alias))

    assert f"{ROWS} rows processed, 0 changed" in text
    assert "that update_fields names the fields it assigns." in text


def half(place):
    place.n += place.name in ("p1", "p3", "p5", "p7", "p9")


class Half(Places):
    update_fields = ["n", "note"]

    def operation(self, obj, db_alias):
        half(obj)


class ByUpdate(Places):
    def operation_batch(self, queryset, db_alias):
        queryset.filter(name__in=["p1", "p3", "p5", "p7", "p9"]).update(n=F("n") + 1)


class ByOneSave(Places):
    batch_size = 1

    def operation(self, obj, db_alias):
        half(obj)
        if obj.n:
            obj.save()


@pytest.mark.parametrize("way", [Half, ByUpdate, ByOneSave])
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_changed_rows_are_counted(db_alias, places, monkeypatch, way, atomic):
    record = launch(register(monkeypatch, type("Migration", (way,), {"atomic": atomic})), db_alias)

    assert record.status == "applied"
    assert (api.status(KEY, db_alias).processed, api.status(KEY, db_alias).changed) == (ROWS, ROWS // 2)
    assert Place.objects.using(db_alias).aggregate(models.Sum("n"))["n__sum"] == ROWS // 2


class BySave(Places):
    def operation(self, obj, db_alias):
        obj.save()


class ByTwoUpdates(Places):
    def operation_batch(self, queryset, db_alias):
        queryset.update(n=1)
        queryset.update(note="new")


class FieldsAndMore(Places):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n += 1
        Call.objects.using(db_alias).create(migration="x")


class FieldsAndIdleUpdate(Places):
    batch_size = 1
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n += 1
        Place.objects.using(db_alias).filter(name="nobody").update(note="x")


class ByCall(Places):
    """Calls a function of the project, whose effect on the rows is not known."""

    def operation_batch(self, queryset, db_alias):
        connection = connections[db_alias]
        with connection.cursor() as cursor:
            cursor.execute("SELECT abs(1), random()" if connection.vendor == "sqlite" else "SELECT abs(1), pi()")


class OnlyFirst(Places):
    """Sends two statements for the first batch, and one for each of the others."""

    def operation_batch(self, queryset, db_alias):
        for _ in range(1 + queryset.filter(name="p0").exists()):
            queryset.update(n=1)


@pytest.mark.parametrize("way", [BySave, ByTwoUpdates, FieldsAndMore, FieldsAndIdleUpdate, ByCall, OnlyFirst])
def test_what_cannot_be_known_is_not_claimed(db_alias, places, monkeypatch, way):
    launch(register(monkeypatch, way), db_alias)

    reading = api.status(KEY, db_alias)
    assert (reading.processed, reading.changed, reading.has_changed_nothing) == (ROWS, None, False)
    (entry,) = [each for each in overview.read(db_alias) if each.key == KEY]
    assert (entry.progress.changed, output.facts(entry)) == (None, "")
    assert Event.objects.using(db_alias).get(verb="applied").detail == "stage 0"


def test_what_is_written_to_another_database_is_seen(server_alias, monkeypatch):
    Place.objects.using(server_alias).create(name="p0")

    class Elsewhere(Places):
        def operation(self, obj, db_alias):
            Place.objects.using("default").create(name="copy")

    launch(register(monkeypatch, Elsewhere), server_alias)

    assert api.status(KEY, server_alias).changed != 0


def test_what_may_be_written_over_a_connection_that_was_not_there_before_is_not_claimed(server_alias):
    found = []  # the result of a thread, which has its own connections

    def work():
        with watched("default") as statements:
            connections[server_alias].ensure_connection()
        found.append((statements.writes, statements.rows))
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [(1, None)]


def test_objects_that_failed_are_counted_when_they_are_done(db_alias, places, monkeypatch):
    class Bad(Half):
        on_error = "continue"
        is_bad = True

        def operation(self, obj, db_alias):
            if self.is_bad and obj.name == "p3":
                raise ValueError
            super().operation(obj, db_alias)

    key = register(monkeypatch, Bad)
    launch(key, db_alias)
    assert (api.status(key, db_alias).processed, api.status(key, db_alias).changed) == (ROWS - 1, ROWS // 2 - 1)
    monkeypatch.setattr(Bad, "is_bad", False)

    assert retry(key, db_alias).status == "applied"
    assert (api.status(key, db_alias).processed, api.status(key, db_alias).changed) == (ROWS, ROWS // 2)


def test_what_is_done_once_counts_no_rows(db_alias, monkeypatch):
    class Once(SimpleMigration):
        def operation(self, db_alias):
            pass

    launch(register(monkeypatch, Once), db_alias)

    assert not api.status(KEY, db_alias).has_changed_nothing
    assert Event.objects.using(db_alias).get(verb="applied").detail == "stage 0"


INSERT_BEFORE = "INSERT INTO testapp_place (id, name, note, n) SELECT min(id) - 1, '', '', 0 FROM testapp_place"


def test_rows_that_come_into_the_range_of_a_batch_are_among_the_changed(db_alias, places, monkeypatch):
    class Growing(Places):
        batch_size = None

        def operation_batch(self, queryset, db_alias):
            connection = connections[db_alias]
            watching, connection.execute_wrappers = connection.execute_wrappers, []  # as if another connection did it
            with connection.cursor() as cursor:
                cursor.execute(INSERT_BEFORE)
            connection.execute_wrappers = watching
            queryset.update(n=1)

    key = register(monkeypatch, Growing)
    launch(key, db_alias)

    assert Place.objects.using(db_alias).filter(n=1).count() == ROWS + 1
    shard = ShardRecord.objects.using(db_alias).get()
    assert (shard.processed, shard.changed) == (ROWS, ROWS + 1)


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT "a"."id" FROM "a" WHERE "a"."id" IN (%s, %s) ORDER BY "a"."id"',
        "select count(*), Coalesce(max(x), 0) from a where (a = 1 or (b = 2)) and not exists(select 1 from b)",
        "SELECT CAST(x AS varchar(10)) FROM a FOR UPDATE",
        ' SAVEPOINT "s1"',
        'RELEASE SAVEPOINT "s1"',
    ],
)
def test_what_only_reads_is_no_change(sql):
    statements = Statements()

    statements.note(sql, 5)

    assert (statements.writes, statements.rows, statements.may_delete) == (0, 0, False)


@pytest.mark.parametrize(
    ("sql", "rows", "may_delete"),
    [
        ("UPDATE a SET b = 1", 5, False),
        ("  insert into a values (1)", 5, False),
        ("DELETE FROM a", 5, True),
        ("INSERT INTO a SELECT 1 ON DUPLICATE KEY UPDATE a = a", None, False),
        ("INSERT INTO a VALUES (1) RETURNING id", None, False),
        ("WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x", None, True),
        ("SELECT archive(5)", None, True),
        ("SELECT public.archive (5)", None, True),
        ('SELECT "archive"(5)', None, True),
        ("SELECT count(*), archive(5) FROM a WHERE (a = 1)", None, True),
        ("SELECT 1 INTO new_table", None, True),
        ("CALL archive()", None, True),
        ("EXPLAIN ANALYZE DELETE FROM a", None, True),
        (b"UPDATE a SET b = 1", None, True),
        ("/* a comment */ SELECT 1", None, True),
    ],
)
def test_what_may_change_something_is_seen(sql, rows, may_delete):
    statements = Statements()

    statements.note(sql, 5)

    assert (statements.writes, statements.rows, statements.may_delete) == (1, rows, may_delete)
