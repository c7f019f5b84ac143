"""Tables in another schema of PostgreSQL, which `db_table` names within quotes."""

import pytest
from django.db import connections
from django.db.models import F

from massmigration import api
from massmigration.dialects import dialect_of
from massmigration.migrations import MapperMigration
from massmigration.models import ShardRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    CopyModelDataToNamespace,
    DeleteModelData,
    RemoveFieldData,
)
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.operations_app.models import Book, Loan, OldBook
from testsupport.operations_app.rows import run

ROWS = 6

pytestmark = pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def books(settings, db_alias, monkeypatch):
    """Books and their loans, in a separate schema."""
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 4
    with connections[db_alias].cursor() as cursor:
        for schema in ("massmigration_side", "massmigration_other"):
            cursor.execute(f"CREATE SCHEMA {schema}")
            cursor.execute(f"CREATE TABLE {schema}.book (LIKE people_book INCLUDING ALL)")
        cursor.execute("CREATE TABLE massmigration_side.loan (LIKE people_loan INCLUDING ALL)")
    monkeypatch.setattr(Book._meta, "db_table", '"massmigration_side"."book"')
    monkeypatch.setattr(Loan._meta, "db_table", '"massmigration_side"."loan"')
    forget_columns()
    Book.objects.using(db_alias).bulk_create(Book(colour=None) for _ in range(ROWS))
    yield
    with connections[db_alias].cursor() as cursor:
        cursor.execute("DROP SCHEMA massmigration_side CASCADE")
        cursor.execute("DROP SCHEMA massmigration_other CASCADE")
    monkeypatch.undo()
    forget_columns()


def forget_columns():
    """Remove the table names that Django's fields have cached."""
    for field in (*Book._meta.concrete_fields, *Loan._meta.concrete_fields):
        vars(field).pop("cached_col", None)


def colours(db_alias, model=Book):
    return list(model.objects.using(db_alias).order_by("pk").values_list("colour", flat=True))


def paint(obj):
    obj.colour = "red"


def save(obj):
    obj.colour = "red"
    obj.save()


def count(obj):
    obj.colour = "red"
    obj.n = F("n") + 1


@pytest.mark.parametrize(
    ("queryset", "operation", "update_fields"),
    [
        pytest.param(lambda: Book.objects.all(), paint, ["colour"], id="fields"),
        pytest.param(lambda: Book.objects.all(), count, ["colour", "n"], id="expression"),
        pytest.param(lambda: Book.objects.all(), save, None, id="save"),
        pytest.param(lambda: Book.objects.distinct(), paint, ["colour"], id="distinct"),
    ],
)
def test_a_mapper_works_at_a_table_in_another_schema(db_alias, monkeypatch, queryset, operation, update_fields):
    class Migration(MapperMigration):
        def get_queryset(self, db_alias):
            return queryset()

        def operation(self, obj, db_alias):
            operation(obj)

    Migration.update_fields = update_fields

    record = launch(register(monkeypatch, Migration), db_alias)

    assert (record.status, record.last_error) == ("applied", "")
    assert colours(db_alias) == ["red"] * ROWS
    assert ShardRecord.objects.using(db_alias).get().processed == ROWS


def test_objects_with_related_ones_are_locked_there_too(db_alias, monkeypatch):
    Loan.objects.using(db_alias).bulk_create(Loan(book=book) for book in Book.objects.using(db_alias))

    class Migration(MapperMigration):
        update_fields = ["colour"]

        def get_queryset(self, db_alias):
            return Loan.objects.select_related("book")

        def operation(self, obj, db_alias):
            obj.colour = f"of {obj.book_id}"

    record = launch(register(monkeypatch, Migration), db_alias)

    assert (record.status, record.last_error) == ("applied", "")
    assert colours(db_alias, Loan) == [f"of {pk}" for pk in Book.objects.using(db_alias).values_list("pk", flat=True)]


@pytest.mark.parametrize(
    ("operation", "colour"),
    [
        pytest.param(AddFieldData("people.Book", "colour", "red"), "red", id="add"),
        pytest.param(AddFieldData("people.Book", "colour", lambda book: "red"), "red", id="add-called"),
        pytest.param(CopyFieldData("people.Book", "id", "n"), None, id="copy"),
        pytest.param(RemoveFieldData("people.Book", "colour"), None, id="remove"),
    ],
)
def test_operations_change_a_table_in_another_schema(db_alias, monkeypatch, operation, colour):
    record = run(monkeypatch, db_alias, operation)

    assert (record.status, record.last_error) == ("applied", "")
    assert colours(db_alias) == [colour] * ROWS


def test_rows_are_copied_from_one_schema_to_another_and_back(db_alias, monkeypatch):
    there = CopyModelData("people.Book", "people.OldBook")
    back = CopyModelData("people.OldBook", "people.Book", overwrite=True)

    record = run(monkeypatch, db_alias, there)
    OldBook.objects.using(db_alias).update(colour="green")
    api.forget(record.key, db_alias)
    again = run(monkeypatch, db_alias, back)

    assert (record.status, again.status) == ("applied", "applied")
    assert colours(db_alias) == ["green"] * ROWS


def test_rows_are_copied_to_the_same_table_of_another_schema(db_alias, monkeypatch):
    record = run(monkeypatch, db_alias, CopyModelDataToNamespace("people.Book", "massmigration_other"))

    assert (record.status, record.last_error) == ("applied", "")
    with connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT id FROM massmigration_other.book ORDER BY id")
        assert [pk for (pk,) in cursor.fetchall()] == list(Book.objects.using(db_alias).values_list("pk", flat=True))


def test_rows_of_a_table_in_another_schema_are_deleted_with_what_refers_to_them(db_alias, monkeypatch):
    Loan.objects.using(db_alias).bulk_create(Loan(book=book) for book in Book.objects.using(db_alias))

    record = run(monkeypatch, db_alias, DeleteModelData("people.Book"))

    assert (record.status, record.last_error) == ("applied", "")
    assert (colours(db_alias), colours(db_alias, Loan)) == ([], [])


def test_size_and_triggers_of_a_table_in_another_schema_are_known(db_alias):
    with connections[db_alias].cursor() as cursor:
        function = "massmigration_side.f()"
        cursor.execute(f"CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end'")
        trigger = "CREATE TRIGGER told BEFORE UPDATE ON massmigration_side.book FOR EACH ROW"
        cursor.execute(f"{trigger} EXECUTE FUNCTION {function}")
        cursor.execute("ANALYZE massmigration_side.book")

    assert dialect_of(db_alias).trigger_names(Book) == ["told"]
    assert dialect_of(db_alias).estimated_table_rows(Book) == ROWS
