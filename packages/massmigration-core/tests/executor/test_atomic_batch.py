import contextlib

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models import F

from massmigration.migrations import MapperMigration
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry, unresolved
from testsupport.testapp.models import Person


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class People(MapperMigration):
    batch_size = 10

    def get_queryset(self, db_alias):
        return Person.objects.all()


def make_people(db_alias, count=15):
    """Return their pks. The thirteenth is called bad."""
    names = ["bad" if number == 12 else "good" for number in range(count)]
    Person.objects.using(db_alias).bulk_create(Person(name=name) for name in names)
    return list(Person.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))


def counts(db_alias):
    return list(Person.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def repair_rows(db_alias):
    Person.objects.using(db_alias).filter(name="bad").update(name="good")


NOWHERE = 999_999_999


class MoveByObject(People):
    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.home_id = NOWHERE if obj.name == "bad" else None
        obj.save()


class MoveByFields(People):
    update_fields = ["home", "n"]

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.home_id = NOWHERE if obj.name == "bad" else None


class MoveByBatch(People):
    def operation_batch(self, queryset, db_alias):
        bad = queryset.filter(name="bad")
        if bad.exists():
            bad.update(home_id=NOWHERE)
        queryset.update(n=F("n") + 1)


@pytest.mark.parametrize("way", [MoveByObject, MoveByFields, MoveByBatch], ids=["object", "fields", "batch"])
@pytest.mark.parametrize("batch_size", [10, 1])
def test_a_constraint_checked_at_commit_finds_the_guilty_object(db_alias, monkeypatch, way, batch_size):
    pks = make_people(db_alias)
    key = register(monkeypatch, type("Migration", (way,), {"batch_size": batch_size}))

    record = launch(key, db_alias)

    assert record.status == Status.FAILED
    assert unresolved(db_alias).exception_class == "django.db.utils.IntegrityError"
    assert unresolved(db_alias).object_pk == [pks[12]]
    assert counts(db_alias) == [1] * 12 + [0] * 3
    repair_rows(db_alias)
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * 15


@pytest.mark.parametrize("update_fields", [None, ["home"]], ids=["object", "fields"])
def test_without_a_transaction_a_constraint_finds_the_guilty_object_too(db_alias, monkeypatch, update_fields):
    class Stepwise(People):
        atomic = False

        def operation(self, obj, db_alias):
            obj.home_id = NOWHERE if obj.name == "bad" else None
            if update_fields is None:
                obj.save()

    pks = make_people(db_alias)
    Stepwise.update_fields = update_fields

    record = launch(register(monkeypatch, Stepwise), db_alias)

    assert record.status == Status.FAILED
    assert unresolved(db_alias).object_pk == [pks[12]]


def swallow_by_orm(person, db_alias):
    with contextlib.suppress(IntegrityError):
        Person.objects.using(db_alias).create(name="copy", nick="taken")


def swallow_and_go_on(person, db_alias):
    swallow_by_orm(person, db_alias)
    person.save()


def swallow_by_cursor(person, db_alias):
    with contextlib.suppress(IntegrityError), connections[db_alias].cursor() as cursor:
        cursor.execute("INSERT INTO testapp_person (name, nick, n) VALUES ('copy', 'taken', 0)")


def migration_that_calls(swallow):
    class Swallowing(People):
        def operation(self, obj, db_alias):
            Person.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
            obj.refresh_from_db()
            if obj.name == "bad":
                swallow(obj, db_alias)

    return Swallowing


@pytest.mark.parametrize("swallow", [swallow_by_orm, swallow_and_go_on, swallow_by_cursor])
def test_an_object_whose_error_was_swallowed_is_not_counted_as_done(db_alias, monkeypatch, swallow):
    if swallow is swallow_by_cursor and db_alias != "postgresql":
        pytest.skip("Only PostgreSQL makes the transaction unusable; elsewhere the operation may continue.")
    pks = make_people(db_alias)
    Person.objects.using(db_alias).filter(pk=pks[0]).update(nick="taken")

    record = launch(register(monkeypatch, migration_that_calls(swallow)), db_alias)

    assert record.status == Status.FAILED
    assert unresolved(db_alias).object_pk == [pks[12]]
    assert "without transaction.atomic() around the statement" in unresolved(db_alias).message
    assert counts(db_alias) == [1] * 12 + [0] * 3


def test_an_error_swallowed_around_a_savepoint_costs_nothing(db_alias, monkeypatch):
    def swallow(person, db_alias):
        with contextlib.suppress(IntegrityError), transaction.atomic(using=db_alias):
            Person.objects.using(db_alias).create(name="copy", nick="taken")

    pks = make_people(db_alias)
    Person.objects.using(db_alias).filter(pk=pks[0]).update(nick="taken")

    record = launch(register(monkeypatch, migration_that_calls(swallow)), db_alias)

    assert record.status == Status.APPLIED
    assert counts(db_alias) == [1] * 15


class Durable(People):
    def operation(self, obj, db_alias):
        with transaction.atomic(using=db_alias, durable=True):
            Person.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


def test_an_operation_with_a_durable_block_of_its_own_is_told_what_to_do(db_alias, monkeypatch):
    make_people(db_alias)

    record = launch(register(monkeypatch, Durable), db_alias)

    assert record.status == Status.FAILED
    assert "A batch is a transaction already. Set atomic = False on the migration" in record.last_error


def test_an_operation_with_a_durable_block_runs_without_a_transaction(db_alias, monkeypatch):
    make_people(db_alias)

    record = launch(register(monkeypatch, type("Migration", (Durable,), {"atomic": False})), db_alias)

    assert record.status == Status.APPLIED
    assert counts(db_alias) == [1] * 15


@pytest.fixture
def extra_column(server_alias):
    """Drop the column that the migrations below add."""
    yield
    if "extra" in columns_of_person(server_alias):
        with connections[server_alias].cursor() as cursor:
            cursor.execute("ALTER TABLE testapp_person DROP COLUMN extra")


def columns_of_person(db_alias):
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        return {column.name for column in connection.introspection.get_table_description(cursor, "testapp_person")}


class AddColumn(People):
    statement = "ALTER TABLE testapp_person ADD COLUMN extra INT"

    def operation(self, obj, db_alias):
        Person.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        if obj.name == "bad":
            with connections[db_alias].cursor() as cursor:
                cursor.execute(self.statement)


@pytest.mark.parametrize(
    "statement",
    [
        AddColumn.statement,
        "  create table testapp_extra (id int)",
        "TRUNCATE TABLE testapp_call",
        "COMMIT",
        "START TRANSACTION",
        "ANALYZE TABLE testapp_person",
        "/* a comment */ DROP TABLE IF EXISTS testapp_extra",
        "SET autocommit = 1",
    ],
)
@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_what_would_commit_half_a_batch_is_refused_before_it_runs(server_alias, monkeypatch, extra_column, statement):
    pks = make_people(server_alias)

    record = launch(register(monkeypatch, type("Migration", (AddColumn,), {"statement": statement})), server_alias)

    assert record.status == Status.FAILED
    assert "inside a batch, which would commit the batch before its end. Set atomic = False" in record.last_error
    assert unresolved(server_alias).object_pk == [pks[12]]
    assert "extra" not in columns_of_person(server_alias)
    assert counts(server_alias) == [1] * 12 + [0] * 3


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_schema_changes_are_allowed_without_a_transaction(server_alias, monkeypatch, extra_column):
    make_people(server_alias)

    record = launch(register(monkeypatch, type("Migration", (AddColumn,), {"atomic": False})), server_alias)

    assert record.status == Status.APPLIED
    assert "extra" in columns_of_person(server_alias)
    assert counts(server_alias) == [1] * 15
