"""Rows that the engine must write, but does not find."""

import contextlib
from decimal import Decimal

import pytest
from django.db import connections
from django.db.models import F, JSONField, Model, QuerySet, Value

from massmigration import checks
from massmigration.definitions import stages
from massmigration.dialects import dialect_of
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, ShardRecord
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.keyed import Branch, Leaf, Mass, Root, Sum, Weight, table
from testsupport.testapp.models import Cafe, Place, Restaurant

ROWS = 6


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 4


def mapper(model, update_fields=("n",), operation=None, queryset=None, **attributes):
    def change(obj):
        obj.n += 1

    class Migration(MapperMigration):
        def get_queryset(self, db_alias):
            return QuerySet(model) if queryset is None else queryset()

        def operation(self, obj, db_alias):
            (operation or change)(obj)

    Migration.update_fields = update_fields
    for name, value in attributes.items():
        setattr(Migration, name, value)
    return Migration


def counts(model, db_alias):
    return list(model.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def report(db_alias):
    shard = ShardRecord.objects.using(db_alias).get()
    return shard.processed, shard.skipped, shard.changed


# Keys that are not found again.


@pytest.mark.parametrize("update_fields", [["n"], None], ids=["fields", "save"])
def test_a_key_of_single_precision_is_refused(server_alias, monkeypatch, update_fields):
    key = register(monkeypatch, mapper(Weight, update_fields))

    with pytest.raises(BadMigrationFile, match=r"'kilos' of testapp\.Weight, which is a column of type"):
        launch(key, server_alias)


def test_a_column_of_single_precision_is_refused_whatever_the_model_says(server_alias, monkeypatch):
    key = register(monkeypatch, mapper(Mass))
    change = DATABASE_SERVERS[server_alias].single_precision.format(column="kilos")

    with table(Mass, server_alias):
        with connections[server_alias].cursor() as cursor:
            cursor.execute(f"ALTER TABLE testapp_mass {change}")
        with pytest.raises(
            BadMigrationFile, match=r"are ordered by 'kilos' of testapp\.Mass, which is a column of type"
        ):
            launch(key, server_alias)


def test_keys_of_double_precision_are_found_again(db_alias, monkeypatch):
    key = register(monkeypatch, mapper(Mass))

    with table(Mass, db_alias):
        Mass.objects.using(db_alias).bulk_create(Mass(kilos=number / 7 - 1) for number in range(ROWS))
        record = launch(key, db_alias)

        assert (record.status, counts(Mass, db_alias)) == ("applied", [1] * ROWS)
        assert report(db_alias) == (ROWS, 0, ROWS)


def test_a_decimal_key_with_more_digits_than_sqlite_keeps_is_refused_there_alone(db_alias, monkeypatch):
    key = register(monkeypatch, mapper(Sum))

    with table(Sum, db_alias):
        amounts = [Decimal("123456789012345678.91") + number for number in range(ROWS)]
        if db_alias == "default":
            with pytest.raises(BadMigrationFile, match=r"'amount' of testapp\.Sum, which has more than 15"):
                launch(key, db_alias)
            return
        Sum.objects.using(db_alias).bulk_create(Sum(amount=amount) for amount in amounts)
        record = launch(key, db_alias)

        assert (record.status, counts(Sum, db_alias)) == ("applied", [1] * ROWS)


def test_a_check_tells_of_a_key_that_is_not_kept_exactly():
    (found,) = checks.check_migration(mapper(Sum)("testapp", "0001_sum"))

    assert found.id == "massmigration.W005"
    assert "more than 15 digits, which SQLite does not store exactly" in found.msg


def inexact(db_alias):
    """Return a model whose keys the database does not store exactly, and three of its keys."""
    if db_alias == "default":
        return Sum, [Decimal(f"12345678901234{number}.91") for number in range(3)]
    return Weight, [0.1, 0.2, 0.3]


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_locked_row_that_the_write_does_not_find_is_a_failure(db_alias, monkeypatch, on_error):
    if db_alias == "postgresql":
        pytest.skip("It is given the keys with the type of their column, and finds them.")
    model, keys = inexact(db_alias)
    name = model._meta.pk.name
    monkeypatch.setattr(stages, "check_exact", lambda *args, **kwargs: None)
    monkeypatch.setattr(stages, "check_exact_columns", lambda *args, **kwargs: None)

    with table(model, db_alias):
        model.objects.using(db_alias).bulk_create(model(**{name: key}) for key in keys)
        record = launch(register(monkeypatch, mapper(model, on_error=on_error)), db_alias)

        assert record.status == "failed"
        failed = FailedObject.objects.using(db_alias).first()
        assert failed.exception_class == "massmigration.exceptions.RowNotWritten"
        assert failed.object_pk is not None
        assert "locked, and the operation deleted none" in failed.message
        assert ShardRecord.objects.using(db_alias).get().skipped == 0


def by_django(place):
    place.n += 1
    place.delete()


def by_sql(place):
    place.n += 1
    Place.objects.using(place._state.db).filter(pk=place.pk).delete()


@pytest.mark.parametrize("delete", [by_django, by_sql])
def test_a_row_that_the_operation_deletes_itself_is_processed(db_alias, monkeypatch, delete):
    Place.objects.using(db_alias).bulk_create(Place(name=str(number)) for number in range(ROWS))

    record = launch(register(monkeypatch, mapper(Place, operation=delete)), db_alias)

    assert (record.status, Place.objects.using(db_alias).count()) == ("applied", 0)
    assert report(db_alias)[:2] == (ROWS, 0)


# Rows that may be read and not changed.


@contextlib.contextmanager
def secured(db_alias):
    """Let this connection read every second place, but not change it."""
    connection = connections[db_alias]
    role = f"{connection.settings_dict['NAME']}_reader"  # workers of pytest-xdist share the server
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role}")
        cursor.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        cursor.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        cursor.execute("ALTER TABLE testapp_place ENABLE ROW LEVEL SECURITY")
        cursor.execute("CREATE POLICY reading ON testapp_place FOR SELECT USING (true)")
        cursor.execute("CREATE POLICY changing ON testapp_place FOR UPDATE USING (name = 'open')")
        cursor.execute(f"SET ROLE {role}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP POLICY reading ON testapp_place")
            cursor.execute("DROP POLICY changing ON testapp_place")
            cursor.execute("ALTER TABLE testapp_place DISABLE ROW LEVEL SECURITY")
            cursor.execute(f"DROP OWNED BY {role}")
            cursor.execute(f"DROP ROLE {role}")


@pytest.fixture
def places(server_alias):
    if server_alias != "postgresql":
        pytest.skip("Only PostgreSQL has row-level security.")
    Place.objects.using(server_alias).bulk_create(
        Place(name="shut" if number % 2 else "open") for number in range(ROWS)
    )
    with secured(server_alias):
        yield


def save(place):
    place.n += 1
    place.save()


def update(place):
    Place.objects.using(place._state.db).filter(pk=place.pk).update(n=F("n") + 1)


WAYS = {
    "fields": {},
    "expression": {"operation": lambda place: setattr(place, "n", F("n") + 1)},
    "joined": {"queryset": lambda: Place.objects.distinct()},
    "unlocked": {"lock_rows": False},
    "stepwise": {"atomic": False},
    "save": {"operation": save, "update_fields": None},
    "update": {"operation": update, "update_fields": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_may_be_read_and_not_changed_are_failures(server_alias, places, monkeypatch, way):
    record = launch(register(monkeypatch, mapper(Place, **{"on_error": "continue", **WAYS[way]})), server_alias)

    assert record.status == "failed"
    shut = list(Place.objects.using(server_alias).filter(name="shut").order_by("pk").values_list("pk", flat=True))
    failed = FailedObject.objects.using(server_alias).order_by("pk")
    assert [each.object_pk for each in failed] == [[pk] for pk in shut]
    assert counts(Place, server_alias) == [1, 0] * (ROWS // 2)
    shard = ShardRecord.objects.using(server_alias).get()
    assert (shard.processed, shard.skipped, shard.failed) == (3, 0, 3)


def test_a_batch_of_rows_that_may_not_be_changed_tells_how_many_were(server_alias, places, monkeypatch):
    class Migration(MapperMigration):
        def get_queryset(self, db_alias):
            return Place.objects.all()

        def operation_batch(self, queryset, db_alias):
            queryset.update(n=F("n") + 1)

    record = launch(register(monkeypatch, Migration), server_alias)

    assert record.status == "applied"
    assert report(server_alias) == (ROWS, 0, ROWS // 2)


# Tables of parents.


@contextlib.contextmanager
def tables(db_alias):
    with table(Root, db_alias), table(Branch, db_alias), table(Leaf, db_alias):
        yield


LOADED = {
    "all": lambda model: QuerySet(model),
    "only": lambda model: QuerySet(model).only("n"),
    "only-own": lambda model: QuerySet(model).only("width"),
    "defer": lambda model: QuerySet(model).defer("code", "width"),
}


@pytest.mark.parametrize("model", [Branch, Leaf], ids=lambda model: model.__name__)
@pytest.mark.parametrize("loaded", LOADED)
def test_fields_of_parents_are_written_whatever_was_loaded(db_alias, monkeypatch, model, loaded):
    def change(obj):
        obj.n = 1
        obj.width = 2

    with tables(db_alias):
        for number in range(ROWS):
            model.objects.using(db_alias).create(code=f"c{number}", note="kept")
        migration = mapper(model, ["n", "width"], change, lambda: LOADED[loaded](model))
        record = launch(register(monkeypatch, migration), db_alias)

        assert (record.status, record.last_error) == ("applied", "")
        found = model.objects.using(db_alias).values_list("n", "width", "note")
        assert set(found) == {(1, 2, "kept")}
        assert report(db_alias) == (ROWS, 0, ROWS)


@pytest.mark.parametrize("loaded", [lambda rows: rows.only("stars"), lambda rows: rows.defer("id")])
def test_fields_of_a_parent_with_numbers_for_keys_are_written_whatever_was_loaded(db_alias, monkeypatch, loaded):
    for number in range(ROWS):
        Restaurant.objects.using(db_alias).create(name=str(number))

    def change(obj):
        obj.n = 1

    migration = mapper(Restaurant, operation=change, queryset=lambda: loaded(Restaurant.objects.all()))
    record = launch(register(monkeypatch, migration), db_alias)

    assert (record.status, counts(Restaurant, db_alias)) == ("applied", [1] * ROWS)


def test_the_key_of_a_second_parent_is_not_asked_for_object_by_object(db_alias, monkeypatch):
    def change(obj):
        obj.wares = "new"

    for number in range(ROWS):
        Cafe.objects.using(db_alias).create(name=str(number), shop_id=100 - number)
    migration = mapper(Cafe, ["wares"], change, lambda: Cafe.objects.only("note"))
    monkeypatch.delattr(Model, "refresh_from_db")

    record = launch(register(monkeypatch, migration), db_alias)

    assert (record.status, record.last_error) == ("applied", "")
    assert set(Cafe.objects.using(db_alias).values_list("wares", flat=True)) == {"new"}


@pytest.mark.parametrize("model", [Root, Branch], ids=lambda model: model.__name__)
def test_null_in_json_is_written_as_save_writes_it(db_alias, model):
    field = Root._meta.get_field("data")

    with tables(db_alias):
        for number, value in enumerate([Value(None, JSONField()), None, {"a": None}]):
            model.objects.using(db_alias).create(code=f"saved {number}", data=value)
            model.objects.using(db_alias).create(code=f"written {number}", data=[1])
        objects = list(model.objects.using(db_alias).filter(code__startswith="written").order_by("code"))
        for obj, value in zip(objects, [Value(None, JSONField()), None, {"a": None}], strict=True):
            obj.data = value

        assert dialect_of(db_alias).write(objects, [field]) == 3
        nulls = Root.objects.using(db_alias).filter(data__isnull=True).order_by("code")
        assert [root.code for root in nulls] == ["saved 1", "written 1"]
