"""Rows that a model's managers leave out, even the base manager. They are migrated like others."""

import re
import uuid
from pathlib import Path

import pytest
from django.db.models import F, QuerySet

import massmigration
from massmigration import dryrun
from massmigration.enforcement import ensure_migrated
from massmigration.executor import work_stealing
from massmigration.jobs import Job, JobKind
from massmigration.migrations import MapperMigration
from massmigration.models import ShardRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
)
from massmigration.recorder.work_stealing import Victim
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.operations_app.models import Book, Label, Loan, OldBook
from testsupport.operations_app.rows import run

SOURCE = Path(massmigration.__file__).parent


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 4


@pytest.fixture
def books(db_alias):
    """Books and labels, every second of which is hidden."""
    every(Book, db_alias).bulk_create(Book(colour=None, is_deleted=bool(index % 2)) for index in range(10))
    every(Label, db_alias).bulk_create(Label(text=f"l{index}", is_deleted=bool(index % 2)) for index in range(10))


def every(model, db_alias):
    return QuerySet(model, using=db_alias)


def values(model, db_alias, name):
    return list(every(model, db_alias).order_by("pk").values_list(name, flat=True))


class Counting(MapperMigration):
    update_fields = ["n", "colour"]
    model = Book

    def get_queryset(self, db_alias):
        return QuerySet(self.model)

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.colour = "green"


class Joined(Counting):
    """Has rows that are locked by their keys."""

    def get_queryset(self, db_alias):
        return QuerySet(self.model).distinct()


class Plain(Counting):
    def operation(self, obj, db_alias):
        obj.n += 1
        obj.colour = "green"


@pytest.mark.parametrize("model", [Book, Label])
@pytest.mark.parametrize("way", [Counting, Joined, Plain])
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_mapper_writes_hidden_rows_too(db_alias, books, monkeypatch, model, way, atomic):
    key = register(monkeypatch, type("Migration", (way,), {"model": model, "atomic": atomic}))

    record = launch(key, db_alias)

    assert record.status == "applied", record.last_error
    assert values(model, db_alias, "n") == [1] * 10
    assert values(model, db_alias, "colour") == ["green"] * 10
    shard = ShardRecord.objects.using(db_alias).get()
    assert (shard.processed, shard.skipped) == (10, 0)


def paint(obj):
    obj.colour = "red"


def paint_entity(entity):
    entity["colour"] = "red"


@pytest.mark.parametrize(
    ("operation", "colour"),
    [
        pytest.param(AddFieldData("people.Book", "colour", "red"), "red", id="constant"),
        pytest.param(AddFieldData("people.Book", "colour", lambda book: "red"), "red", id="callable"),
        pytest.param(CopyFieldData("people.Book", "id", "n"), None, id="copy"),
        pytest.param(MapFunctionOnEntities("people.Book", paint_entity), "red", id="entities"),
        pytest.param(MapFunctionOnObjects("people.Book", paint, update_fields=["colour"]), "red", id="objects"),
    ],
)
def test_ready_made_operations_change_hidden_rows_too(db_alias, books, monkeypatch, operation, colour):
    record = run(monkeypatch, db_alias, operation)

    assert record.status == "applied", record.last_error
    assert values(Book, db_alias, "colour") == [colour] * 10
    if colour is None:
        assert values(Book, db_alias, "n") == values(Book, db_alias, "pk")


@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "keep"])
@pytest.mark.parametrize("mapping", [{}, {"colour": F("colour")}], ids=["all", "map"])
def test_hidden_rows_are_copied_and_found_to_be_there(db_alias, books, monkeypatch, overwrite, mapping):
    every(Book, db_alias).update(colour="red")
    for book in every(Book, db_alias)[:4]:
        every(OldBook, db_alias).create(pk=book.pk, colour="old", is_deleted=book.is_deleted)

    operation = CopyModelData("people.Book", "people.OldBook", map=mapping, overwrite=overwrite)
    record = run(monkeypatch, db_alias, operation)

    assert record.status == "applied", record.last_error
    old = "red" if overwrite else "old"
    assert values(OldBook, db_alias, "colour") == [old] * 4 + ["red"] * 6


def test_hidden_rows_are_copied_through_python_too(db_alias, books, monkeypatch):
    monkeypatch.setattr(OldBook._meta.get_field("colour"), "default", lambda: "made")
    for book in every(Book, db_alias)[:4]:
        every(OldBook, db_alias).create(pk=book.pk, colour="old", is_deleted=book.is_deleted)

    record = run(monkeypatch, db_alias, CopyModelData("people.Book", "people.OldBook", fields=["n", "is_deleted"]))

    assert record.status == "applied", record.last_error
    assert values(OldBook, db_alias, "colour") == ["old"] * 4 + ["made"] * 6


@pytest.mark.parametrize("cascade", [True, False], ids=["cascade", "raw"])
def test_hidden_rows_are_deleted_too(db_alias, books, monkeypatch, cascade):
    record = run(monkeypatch, db_alias, DeleteModelData("people.Book", cascade=cascade))

    assert record.status == "applied", record.last_error
    assert values(Book, db_alias, "pk") == []


def test_a_deletion_cascades_to_hidden_rows(db_alias, books, monkeypatch):
    hidden = [Loan(book=book, is_deleted=True) for book in every(Book, db_alias)]
    every(Loan, db_alias).bulk_create(hidden)

    record = run(monkeypatch, db_alias, DeleteModelData("people.Book"))

    assert record.status == "applied", record.last_error
    assert (values(Book, db_alias, "pk"), values(Loan, db_alias, "pk")) == ([], [])


def test_a_dry_run_shows_hidden_rows_too(db_alias, books, monkeypatch):
    found = dryrun.dry_run(register(monkeypatch, Counting), db_alias, 10)

    assert [tried.changes for tried in found.objects] == [{"n": (0, 1), "colour": (None, "green")}] * 10


@pytest.mark.parametrize("again", [False, True], ids=["done", "applied"])
def test_a_hidden_object_is_migrated_on_the_spot(db_alias, books, monkeypatch, again):
    class Shrinking(Counting):
        def get_queryset(self, db_alias):
            return QuerySet(Book).filter(colour=None)

    key = register(monkeypatch, Shrinking)
    obj = every(Book, db_alias).filter(is_deleted=True).first()
    if again:
        launch(key, db_alias)

    assert ensure_migrated(obj, key, db_alias) is not again
    assert (obj.colour, obj.n) == ("green", 1)


def test_a_shard_of_hidden_rows_can_be_shared(db_alias, books):
    every(Book, db_alias).update(is_deleted=True)
    first, *_, last = values(Book, db_alias, "pk")
    job = Job(kind=JobKind.SHARD, key="testapp:0001", db_alias=db_alias, attempt_id=str(uuid.uuid4()), stage=0)
    knife = work_stealing._ShardSplitter(Counting("testapp", "0001").get_stages()[0], job)
    victim = Victim(pk=0, after=None, upper=[last], batch_size=4)

    assert knife._is_ahead([first], [last], victim)


def test_no_module_asks_a_users_model_for_a_manager():
    # Only for models of this package, whose managers leave out no rows.
    allowed = ("documents/", "migrations/")
    modules = [path for path in SOURCE.rglob("*.py") if not str(path.relative_to(SOURCE)).startswith(allowed)]
    asked = re.compile(r"_base_manager|_default_manager|\bmodel\.objects|\.base_manager\b|\.default_manager\b")

    assert [path.name for path in modules if asked.search(path.read_text())] == []
