"""Every hook of `Dialect`, on every database, and the places that may ask which database it is."""

import contextlib
import datetime as dt
import inspect
import re
from pathlib import Path

import pytest
from django.db import DatabaseError, IntegrityError, connections, models, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from massmigration.dialects import dialect_of, is_document_database, is_document_engine
from massmigration.dialects.base import Access, Dialect, RowCopy
from massmigration.dialects.documents import DocumentDialect
from massmigration.dialects.mariadb import MariaDBDialect
from massmigration.dialects.mysql import MySQLDialect
from massmigration.dialects.mysql_base import BaseMySQLDialect
from massmigration.dialects.postgresql import PostgreSQLDialect
from massmigration.dialects.sqlite import SQLiteDialect
from massmigration.dialects.writer import BatchWriter
from massmigration.exceptions import CannotMeasure
from testsupport.testapp.models import Awkward, Item, Place, Restaurant, Shop

SOURCES = sorted(Path(__file__).resolve().parents[3].glob("*/src"))
MINUTE = dt.timedelta(minutes=1)
OWN = {"default": SQLiteDialect, "postgresql": PostgreSQLDialect, "mariadb": MariaDBDialect, "mysql": MySQLDialect}
TABLE = Place._meta.db_table
NAME, NOTE, N = (Place._meta.get_field(name) for name in ("name", "note", "n"))


class Unlisted(Dialect):
    """The defaults, for a database that has no class of its own."""


@pytest.fixture(params=["own", "defaults"])
def dialect(request, db_alias):
    return dialect_of(db_alias) if request.param == "own" else Unlisted(connections[db_alias])


own = pytest.mark.parametrize("dialect", ["own"], indirect=True)


@pytest.fixture
def places(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(name=f"place {number}", n=number) for number in range(5))
    return list(Place.objects.using(db_alias).order_by("pk"))


def values(dialect, name):
    return list(Place.objects.using(dialect.db_alias).order_by("pk").values_list(name, flat=True))


class TestTransactions:
    def test_a_transaction_commits(self, dialect):
        with dialect.transaction(idle_limit=MINUTE, lock_wait=MINUTE):
            assert dialect.connection.in_atomic_block
            Place.objects.using(dialect.db_alias).create()

        assert not dialect.connection.in_atomic_block
        assert Place.objects.using(dialect.db_alias).exists()

    def test_a_transaction_that_fails_is_rolled_back(self, dialect):
        with pytest.raises(ZeroDivisionError), dialect.transaction(idle_limit=MINUTE, lock_wait=None):
            1 // Place.objects.using(dialect.db_alias).create().n

        assert not Place.objects.using(dialect.db_alias).exists()

    def test_a_transaction_is_durable(self, dialect):
        opened = dialect.transaction(idle_limit=MINUTE, lock_wait=None)

        with transaction.atomic(using=dialect.db_alias), pytest.raises(RuntimeError):
            opened.__enter__()

    def test_a_row_can_be_queued_for_twice(self, dialect):
        with transaction.atomic(using=dialect.db_alias):
            assert dialect.queue_for_row(2**40) is dialect.queue_for_row(2**40) is None

    def test_the_write_lock_is_not_given_up_at_once(self, dialect):
        assert not dialect.yield_write_lock(held=0.0)

    def test_rows_of_the_present_transaction_are_known_as_such(self, dialect, places):
        rows = Place.objects.using(dialect.db_alias)
        with transaction.atomic(using=dialect.db_alias):
            rows.filter(pk=places[0].pk).update(n=7)
            mine = rows.filter(*dialect.written_here(), n=7).count()
            others = rows.filter(*dialect.written_here()).count()

        assert (mine, others) == (1, 1 if dialect.written_here() else 5)

    @pytest.mark.parametrize("statement", ["CREATE TABLE x (id INT)", "drop table x", "LOCK TABLES x WRITE"])
    def test_schema_changes_commit_unless_they_are_transactional(self, dialect, statement):
        pattern = dialect.implicit_commits()

        assert bool(pattern and pattern.match(statement)) != dialect.connection.features.can_rollback_ddl

    def test_outside_of_a_transaction_there_is_no_snapshot(self, dialect):
        assert not dialect.has_open_snapshot()

    @own
    def test_a_snapshot_is_open_where_the_isolation_level_says_so(self, dialect, monkeypatch):
        monkeypatch.setattr(dialect.connection, "isolation_level", "repeatable read", raising=False)
        with transaction.atomic(using=dialect.db_alias):
            is_open = dialect.has_open_snapshot()

        assert is_open == isinstance(dialect, BaseMySQLDialect)

    def test_a_marked_transaction_is_recognized(self, dialect):
        with transaction.atomic(using=dialect.db_alias):
            dialect.mark_transaction()
            assert dialect.is_marked()

    def test_a_later_transaction_has_no_mark(self, dialect):
        with transaction.atomic(using=dialect.db_alias):
            dialect.mark_transaction()
            dialect.connection.connection.commit()
            assert dialect.is_marked() != dialect.marks_transactions

    def test_a_missing_savepoint_is_recognized(self, dialect):
        with pytest.raises(DatabaseError) as raised, transaction.atomic(using=dialect.db_alias):
            dialect.execute("RELEASE SAVEPOINT missing")

        assert dialect.is_missing_savepoint(raised.value)


class TestWriting:
    def test_fields_are_written(self, dialect, places):
        for place in places:
            place.note = f"note {place.n}"

        assert dialect.write(places, [NOTE]) == 5
        assert values(dialect, "note") == [f"note {number}" for number in range(5)]

    def test_a_table_is_written_with_expressions_and_without_vanished_rows(self, dialect, places):
        Place.objects.using(dialect.db_alias).filter(pk=places[4].pk).delete()
        places[0].n = F("n") + 10

        assert dialect.write_table(Place, places, [N, NAME]) == 4
        assert values(dialect, "n") == [10, 1, 2, 3]

    def test_one_row_is_written(self, dialect, places):
        places[2].n = 7

        assert dialect.write_row(Place, places[2], [N]) == 1
        assert values(dialect, "n") == [0, 1, 7, 3, 4]

    def test_fields_of_parents_are_written_in_their_tables(self, dialect):
        objects = [Restaurant.objects.using(dialect.db_alias).create(n=number) for number in range(3)]
        for obj in objects:
            obj.note, obj.stars = "written", 5

        assert dialect.write(objects, [Restaurant._meta.get_field(name) for name in ("note", "stars")]) == 3
        assert list(Restaurant.objects.using(dialect.db_alias).values_list("note", "stars")) == [("written", 5)] * 3

    @own
    def test_numbers_and_texts_are_written_by_one_statement(self, dialect, places):
        fields = [N, NAME]
        rows = [(place.n + 100, "x", place.pk) for place in places]

        assert dialect.can_write_in_bulk([*fields, Place._meta.pk])
        assert dialect.update_statement(Place, fields, rows) == 5
        assert values(dialect, "n") == [100, 101, 102, 103, 104]

    @own
    @pytest.mark.parametrize("db_alias", ["mysql"], indirect=True)
    def test_each_row_is_found_by_its_key_even_if_there_are_more_values_than_rows(self, dialect, places):
        dialect.rows(f"ANALYZE TABLE {TABLE}")
        rows = [(0, place.pk + number) for place in places for number in range(0, 5000, 5)]
        with CaptureQueriesContext(dialect.connection) as queries:
            dialect.update_statement(Place, [N], rows)

        found = dialect.rows(f"EXPLAIN FORMAT=TRADITIONAL {queries[0]['sql']}")

        names, kinds, indexes = zip(*((row[2], row[4], row[6]) for row in found), strict=True)
        assert names[:2] == ("<derived2>", TABLE)
        assert (kinds[1], indexes[1]) == ("eq_ref", "PRIMARY")

    def test_without_a_class_nothing_is_written_in_bulk(self, db_alias):
        unlisted = Unlisted(connections[db_alias])

        assert not unlisted.can_write_in_bulk([N, Place._meta.pk])
        with pytest.raises(NotImplementedError):
            unlisted.update_statement(Place, [N], [])

    def test_fields_with_sql_around_their_values_are_not_plain(self, dialect):
        field = models.IntegerField()
        field.column = "n"
        wrapped = models.IntegerField()
        wrapped.column, wrapped.get_placeholder = "n", lambda *args: "f(%s)"

        assert dialect.are_plain([field])
        assert not dialect.are_plain([field, wrapped])

    def test_names_are_quoted(self, dialect):
        quote = dialect.connection.ops.quote_name

        assert dialect.names(Place, [N]) == (quote(TABLE), quote("id"), [quote("n")])

    def test_all_rows_are_of_this_database(self, dialect, places):
        assert dialect.all_rows(Place).db == dialect.db_alias
        assert set(dialect.all_rows(Place)) == set(places)


def copy_of(dialect, places, *, overwrite=False, has_other_unique=False):
    """Return a copy of the places within their table, with keys greater by 1000 and `n` greater by 100."""
    quote = dialect.connection.ops.quote_name
    columns = {quote(name): quote(f"copied_{name}") for name in ("id", "name", "note", "n")}
    selected = "id + 1000 AS copied_id, name AS copied_name, note AS copied_note, n + 100 AS copied_n"
    source = f"(SELECT * FROM {TABLE} WHERE id BETWEEN {places[0].pk} AND {places[-1].pk}) source"
    return RowCopy(
        table=quote(TABLE),
        columns=columns,
        keys=[quote("id")],
        select=f"SELECT {selected} FROM {source} WHERE 1 = 1",
        overwrite=overwrite,
        has_other_unique=has_other_unique,
    )


class TestCopying:
    @pytest.mark.parametrize("has_other_unique", [False, True])
    def test_rows_are_copied_where_there_are_none(self, dialect, places, has_other_unique):
        first = places[0]
        Place.objects.using(dialect.db_alias).create(pk=first.pk + 1000, name="kept", n=-1)

        for statement in dialect.copy_statements(copy_of(dialect, places, has_other_unique=has_other_unique)):
            dialect.execute(statement)

        assert values(dialect, "n") == [0, 1, 2, 3, 4, -1, 101, 102, 103, 104]

    @own
    @pytest.mark.parametrize("has_other_unique", [False, True])
    def test_rows_are_overwritten(self, dialect, places, has_other_unique):
        Place.objects.using(dialect.db_alias).create(pk=places[0].pk + 1000, name="lost", n=-1)

        for statement in dialect.copy_statements(
            copy_of(dialect, places, overwrite=True, has_other_unique=has_other_unique)
        ):
            dialect.execute(statement)

        assert values(dialect, "n") == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]

    @pytest.mark.parametrize("has_other_unique", [False, True])
    def test_one_statement_is_one_statement(self, dialect, places, has_other_unique):
        copy = copy_of(dialect, places, overwrite=True, has_other_unique=has_other_unique)

        is_one = dialect.copies_in_one_statement(has_other_unique=has_other_unique)

        assert is_one == (len(dialect.copy_statements(copy)) == 1)

    @own
    def test_the_lock_of_a_copy_is_part_of_a_select(self, dialect, places):
        with transaction.atomic(using=dialect.db_alias):
            assert len(dialect.rows(f"SELECT id FROM {TABLE}{dialect.shared_lock_clause}")) == 5

    @own
    def test_a_key_that_was_given_is_not_given_again(self, dialect):
        table, _, _ = dialect.names(Shop, [])
        Shop.objects.using(dialect.db_alias).create(pk=5000)

        dialect.advance_sequence(table, "shop_id")
        dialect.advance_sequence(table, "shop_id")

        assert Shop.objects.using(dialect.db_alias).create().pk == 5001


class TestTables:
    def test_a_table_is_found(self, dialect):
        assert dialect.has_table(TABLE)
        assert not dialect.has_table("missing")

    @own
    def test_a_schema_and_its_tables_are_found(self, dialect):
        if not dialect.has_schemas:
            pytest.skip("It has no schemas.")
        ((schema,),) = dialect.rows(
            "SELECT current_schema()" if isinstance(dialect, PostgreSQLDialect) else "SELECT DATABASE()"
        )

        assert dialect.has_schema(schema)
        assert not dialect.has_schema("missing")
        assert dialect.has_table_in_schema(schema, TABLE)
        assert not dialect.has_table_in_schema(schema, "missing")

    def test_columns_that_can_be_null_are_known(self, dialect):
        columns = dialect.nullable_columns(Item._meta.db_table)

        assert (columns["slug"], columns["note"]) == (True, False)

    def test_the_type_of_a_column_is_known_where_types_are_rounded(self, dialect):
        assert bool(dialect.column_type(TABLE, "n")) == bool(dialect.rounded_types)
        assert not dialect.column_type(TABLE, "missing")

    def test_whole_numbers_are_exact_keys(self, dialect):
        assert not dialect.inexact_key(N)

    @own
    @pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
    def test_long_decimals_are_inexact_keys_on_sqlite(self, dialect):
        assert "15 digits" in dialect.inexact_key(models.DecimalField(max_digits=20, decimal_places=2))

    def test_there_are_no_triggers_and_policies_unless_somebody_makes_them(self, dialect):
        assert dialect.trigger_names(Awkward) == []
        assert not dialect.has_row_security(Awkward)


class TestReferences:
    def test_rows_that_refer_to_nothing_are_found_before_commit(self, dialect):
        before = dialect.dangling_references()

        with transaction.atomic(using=dialect.db_alias):
            dialect.check_references(before)

        assert before == frozenset()

    @own
    @pytest.mark.parametrize(
        "db_alias", [pytest.param("default", id="sqlite"), pytest.param("postgresql", id="postgresql")], indirect=True
    )
    def test_a_new_row_that_refers_to_nothing_raises(self, dialect):
        before = dialect.dangling_references()

        with transaction.atomic(using=dialect.db_alias):
            Restaurant(place_ptr_id=77, stars=1).save_base(raw=True, using=dialect.db_alias)
            with pytest.raises(IntegrityError):
                dialect.check_references(before)
            transaction.set_rollback(True, using=dialect.db_alias)


class TestPlanner:
    def test_estimates_are_whole_numbers_or_unknown(self, dialect, places):
        found = dialect.estimated_table_rows(Place), dialect.estimated_query_rows(Place.objects.using(dialect.db_alias))

        assert all(number is None or number >= 0 for number in found)

    def test_a_query_that_can_have_no_rows_is_expected_to_have_none(self, dialect):
        assert not dialect.estimated_query_rows(Place.objects.using(dialect.db_alias).filter(pk__in=[]))

    def test_access_is_explained_or_unknown(self, dialect, places):
        access, indexes = dialect.explain_access(Place.objects.using(dialect.db_alias).order_by("pk")[:3])

        assert isinstance(access, Access)
        assert all(isinstance(name, str) for name in indexes)
        assert (access is Access.UNKNOWN) == isinstance(dialect, Unlisted)

    @own
    @pytest.mark.parametrize("db_alias", ["mysql"], indirect=True)
    def test_an_estimate_is_not_a_day_old(self, dialect):
        kept = f"SELECT table_rows FROM information_schema.tables WHERE table_name = '{Shop._meta.db_table}'"
        before = dialect.rows(f"{kept} AND table_schema = DATABASE()")
        Shop.objects.using(dialect.db_alias).bulk_create(Shop() for _ in range(5000))

        assert dialect.rows(f"{kept} AND table_schema = DATABASE()") == before
        assert 4000 < dialect.estimated_table_rows(Shop) < 6000

    @own
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("db_alias", ["mysql"], indirect=True)
    def test_both_formats_of_mysqls_plans_are_read(self, dialect, places, version):
        rows = Place.objects.using(dialect.db_alias)
        dialect.execute(f"SET SESSION explain_json_format_version = {version}")
        try:
            seek = dialect.explain_access(rows.filter(pk__gt=places[0].pk).order_by("pk")[:3])
            scan = dialect.explain_access(rows.filter(note="x"))
            sort = dialect.explain_access(rows.order_by("note")[:3])
        finally:
            dialect.execute("SET SESSION explain_json_format_version = DEFAULT")

        assert seek == (Access.SEEK, ("PRIMARY",))
        assert (scan[0], sort[0]) == (Access.SCAN, Access.SORT)


class TestServer:
    @own
    def test_the_servers_of_the_tests_have_no_problem(self, dialect):
        assert dialect.server_problems() == []

    @own
    def test_the_load_of_a_server_is_a_number_or_nothing(self, dialect):
        # What the numbers are is in tests/throttling/test_load_of_servers.py, on servers that nobody else uses.
        tables = [Place._meta.db_table]
        found = [dialect.running_sessions(), dialect.lock_waiters(tables), dialect.share_of_dead_rows(tables)]
        found.append(dialect.blocked_sessions())

        assert all(each is None or each >= 0 for each in found)
        assert (dialect.oldest_transaction() or dt.timedelta(0)) >= dt.timedelta(0)
        assert set(dialect.autovacuums(tables) or []) <= {False, True}

    @own
    def test_a_server_that_is_not_replicated_says_so(self, dialect):
        with pytest.raises(CannotMeasure, match="is not a replica"):
            dialect.replication_lag()
        with contextlib.suppress(CannotMeasure):
            assert dialect.lag_of_replicas() is None

    def test_without_a_class_there_is_nothing_to_measure(self, db_alias):
        dialect = Unlisted(connections[db_alias])
        measures = [dialect.lock_waiters, dialect.autovacuums, dialect.share_of_dead_rows]

        assert [measure([]) for measure in measures] == [None] * 3
        assert [dialect.lag_of_replicas(), dialect.running_sessions(), dialect.oldest_transaction()] == [None] * 3

    def test_without_a_class_no_problem_is_known(self, db_alias):
        dialect = Unlisted(connections[db_alias])

        assert dialect.server_problems() == []

    @own
    @pytest.mark.parametrize("db_alias", ["mysql"], indirect=True)
    def test_a_version_without_values_row_writes_as_django_does(self, dialect, places, monkeypatch):
        monkeypatch.setattr(dialect.connection, "mysql_version", (8, 0, 18))
        for place in places:
            place.note = f"note {place.n}"

        with CaptureQueriesContext(dialect.connection) as queries:
            assert dialect.write(places, [NOTE]) == 5

        assert values(dialect, "note") == [f"note {number}" for number in range(5)]
        assert ["CASE" in query["sql"] for query in queries] == [True]


class TestTimes:
    def test_a_time_that_was_read_is_aware(self, dialect):
        assert timezone.is_aware(dialect.read_time(dt.datetime(2024, 2, 29)))  # noqa: DTZ001

    def test_a_time_is_selected_by_its_column(self, dialect):
        assert '"at"' in dialect.select_time('"at"')


class TestHelpers:
    def test_statements_are_executed(self, dialect):
        dialect.execute(f"INSERT INTO {TABLE} (name, note, n) VALUES (%s, '', 0)", ["new"])

        assert dialect.rows(f"SELECT name FROM {TABLE} WHERE n = %s", [0]) == [("new",)]

    def test_a_queryset_is_compiled_without_its_ordering(self, dialect):
        sql, params = dialect.compiled(Place.objects.using(dialect.db_alias).filter(n=7).order_by("name"))

        assert "ORDER BY" not in sql
        assert params == (7,)

    def test_a_queryset_that_can_have_no_rows_is_not_compiled(self, dialect):
        assert dialect.compiled(Place.objects.using(dialect.db_alias).none()) is None


def test_each_database_has_its_dialect(db_alias):
    assert type(dialect_of(db_alias)) is OWN[db_alias]
    assert not is_document_database(db_alias)


def test_a_database_of_another_vendor_has_the_defaults(monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "unlisted")

    assert type(dialect_of("default")) is Dialect


def test_an_engine_of_gcloudc_is_a_document_database(monkeypatch):
    engine = type(connections["default"])
    monkeypatch.setattr(engine, "__module__", "gcloudc.db.backends.datastore.base")
    monkeypatch.setattr("massmigration.dialects.is_document_engine", is_document_engine.__wrapped__)

    assert is_document_database("default")
    assert type(dialect_of("default")) is DocumentDialect
    assert dialect_of("default").has_table("any")


HOOKS = sorted(
    name
    for cls in (Dialect, BatchWriter)
    for name, value in vars(cls).items()
    if callable(value) and not name.startswith("_")
)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    tests = [value for name, value in globals().items() if name.startswith("Test")]

    assert any(f"dialect.{hook}(" in inspect.getsource(each) for each in tests)


QUESTION = re.compile(r"\.vendor\b|mysql_is_mariadb|[\"']vendor[\"']")
DOCUMENTS = re.compile(r"is_document_database\(")
ABOUT_DOCUMENTS = {"checks.py", "models.py", "operations/fields.py"}
"""Modules with code for document databases alone, or that choose between it and SQL before any query."""


def asking(pattern, *, but=()):
    """Return the lines of this project's packages that match the pattern, as "module: line"."""
    found = []
    for folder in SOURCES:
        for path in folder.rglob("*.py"):
            module = "/".join(path.relative_to(folder).parts[1:])
            if not module.startswith(("dialects/", *but)):
                lines = path.read_text(encoding="utf-8").splitlines()
                found += [f"{module}: {line.strip()}" for line in lines if pattern.search(line)]
    return found


@pytest.mark.parametrize(
    "line",
    [
        'if connection.vendor == "sqlite":',
        "if connections[db_alias].vendor in ():",
        "if connection.mysql_is_mariadb:",
        'getattr(connection, "vendor")',
    ],
)
def test_a_question_for_the_vendor_is_recognized(line):
    assert QUESTION.search(line)


def test_only_dialects_ask_for_the_vendor():
    assert asking(QUESTION) == []


def test_others_ask_for_a_capability_and_not_for_a_document_database():
    assert {found.split(":")[0] for found in asking(DOCUMENTS, but=["documents/"])} == ABOUT_DOCUMENTS


def test_the_search_finds_what_there_is():
    assert len(SOURCES) > 3
    assert any(found.startswith("documents/") for found in asking(DOCUMENTS))
