"""Commits inside a batch that its SQL does not show. The migration fails, and no row is processed twice."""

import contextlib

import pytest
from django.db import connections
from django.db.models import F, Max

from massmigration.dialects import dialect_of
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import FailedObject, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, unresolved
from testsupport.testapp.models import Place

ROWS = 12
TABLE = "massmigration_hidden"


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


def executing(sql):
    def commit(db_alias):
        with connections[db_alias].cursor() as cursor:
            cursor.execute(sql)

    return commit


def raw(db_alias):
    connections[db_alias].connection.commit()


def script(db_alias):
    connections[db_alias].connection.executescript("SELECT 1")


WAYS = {
    "postgresql-text": ("postgresql", executing("SELECT 1; COMMIT")),
    "postgresql-raw": ("postgresql", raw),
    "sqlite-script": ("default", script),
    "sqlite-raw": ("default", raw),
    "mariadb-procedure": ("mariadb", executing(f"CALL {TABLE}_make()")),
    "mariadb-immediate": ("mariadb", executing(f"EXECUTE IMMEDIATE 'CREATE TABLE IF NOT EXISTS {TABLE} (id INT)'")),
    "mariadb-comment": ("mariadb", executing("/*! COMMIT */")),
    "mariadb-own-comment": ("mariadb", executing("/*M! COMMIT */")),
    "mariadb-block": ("mariadb", executing("BEGIN NOT ATOMIC COMMIT; END")),
    "mariadb-autocommit": ("mariadb", executing("SET @x = 1, autocommit = 1")),
    "mariadb-chain": ("mariadb", executing("COMMIT AND CHAIN")),
    "mariadb-snapshot": ("mariadb", executing("START TRANSACTION WITH CONSISTENT SNAPSHOT")),
    "mariadb-raw": ("mariadb", raw),
    "mysql-procedure": ("mysql", executing(f"CALL {TABLE}_make()")),
    "mysql-prepared": ("mysql", executing("EXECUTE massmigration_make")),
    "mysql-comment": ("mysql", executing("/*! COMMIT */")),
    "mysql-autocommit": ("mysql", executing("SET @x = 1, autocommit = 1")),
    "mysql-chain": ("mysql", executing("COMMIT AND CHAIN")),
    "mysql-snapshot": ("mysql", executing("START TRANSACTION WITH CONSISTENT SNAPSHOT")),
    "mysql-raw": ("mysql", raw),
}


@pytest.fixture
def commit(request, db_alias):
    if db_alias not in ("mariadb", "mysql"):
        yield request.param
        return
    make = f"CREATE TABLE IF NOT EXISTS {TABLE} (id INT)"
    with connections[db_alias].cursor() as cursor:
        cursor.execute(f"DROP PROCEDURE IF EXISTS {TABLE}_make")
        cursor.execute(f"CREATE PROCEDURE {TABLE}_make() {make}")
        cursor.execute(f"PREPARE massmigration_make FROM '{make}'")
    yield request.param
    with connections[db_alias].cursor() as cursor:
        cursor.execute(f"DROP PROCEDURE {TABLE}_make")
        cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")


ways = pytest.mark.parametrize(("db_alias", "commit"), WAYS.values(), ids=WAYS, indirect=True)


def count(db_alias, **condition):
    Place.objects.using(db_alias).filter(**condition).update(n=F("n") + 1)


@pytest.fixture
def places(db_alias):
    Place.objects.using(db_alias).bulk_create(
        Place(name="bad" if number == 7 else f"place {number}") for number in range(ROWS)
    )
    return list(Place.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))


def counting(commit, after):
    """Return a migration class that commits at the bad place and then calls `after`."""

    class Counting(MapperMigration):
        batch_size = 5

        def get_queryset(self, db_alias):
            return Place.objects.all()

        def operation(self, obj, db_alias):
            count(db_alias, pk=obj.pk)
            if obj.name == "bad":
                commit(db_alias)
                after(db_alias)

    return Counting


def go_on(db_alias):
    pass


def fail(db_alias):
    raise ValueError


def fail_in_the_database(db_alias):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT * FROM nowhere")


@ways
@pytest.mark.parametrize("after", [go_on, fail, fail_in_the_database])
def test_a_hidden_commit_fails_the_run_and_no_row_is_done_twice(db_alias, commit, places, monkeypatch, after):
    record = launch(register(monkeypatch, counting(commit, after)), db_alias)

    shard = ShardRecord.objects.using(db_alias).get()
    assert (record.status, unresolved(db_alias).exception_class) == (
        Status.FAILED,
        "massmigration.exceptions.DDLInBatch",
    )
    assert Place.objects.using(db_alias).aggregate(Max("n"))["n__max"] == 1
    assert f"The rows from the one after key {places[4]} up to key {places[9]} may be complete" in record.last_error
    assert (shard.cursor, shard.processed) == ([places[4]], 5)


@ways
def test_a_hidden_commit_of_what_is_done_once_fails_the_run(db_alias, commit, places, monkeypatch):
    class Once(SimpleMigration):
        def operation(self, db_alias):
            count(db_alias)
            commit(db_alias)
            raise ValueError

    record = launch(register(monkeypatch, Once), db_alias)

    assert (record.status, unresolved(db_alias).exception_class) == (
        Status.FAILED,
        "massmigration.exceptions.DDLInBatch",
    )
    assert Place.objects.using(db_alias).aggregate(Max("n"))["n__max"] == 1


@ways
def test_the_session_is_not_used_again_after_a_hidden_commit(db_alias, commit, places, monkeypatch):
    before = connections[db_alias].connection

    launch(register(monkeypatch, counting(commit, go_on)), db_alias)

    assert connections[db_alias].connection is not before


COMMITTING = [
    "CREATE TABLE massmigration_x (id INT)",
    "ALTER TABLE testapp_tag COMMENT 'x'",
    "RENAME TABLE massmigration_x TO massmigration_z",
    "TRUNCATE TABLE testapp_tag",
    "ANALYZE TABLE testapp_place",
    "CHECK TABLE testapp_place",
    "OPTIMIZE TABLE testapp_tag",
    "FLUSH TABLES testapp_tag",
    "LOCK TABLES testapp_place WRITE",
    "UNLOCK TABLES",
    "SET autocommit = 1",
    "SET PASSWORD = ''",
    "SET DEFAULT ROLE NONE TO massmigration_nobody",
    "SET DEFAULT ROLE NONE FOR massmigration_nobody",
    "GRANT SELECT ON *.* TO massmigration_nobody",
    "CACHE INDEX testapp_tag IN default",
    "LOAD INDEX INTO CACHE testapp_tag",
    "RESET REPLICA",
    "RESET BINARY LOGS AND GTIDS",
    "IMPORT TABLE FROM 'x.sdi'",
    "INSTALL PLUGIN x SONAME 'x.so'",
    "UNINSTALL PLUGIN x",
    "INSTALL COMPONENT 'file://x'",
    "CLONE LOCAL DATA DIRECTORY '/x'",
    "START REPLICA",
    "STOP REPLICA",
    "CHANGE MASTER TO MASTER_USER = 'x'",
    "CHANGE REPLICATION FILTER REPLICATE_DO_DB = ()",
]
HARMLESS = [
    "CREATE TEMPORARY TABLE massmigration_y (id INT)",
    "DROP TEMPORARY TABLE IF EXISTS massmigration_y",
    "HANDLER testapp_tag OPEN",
    "SAVEPOINT x",
    "DO 1",
    "SHOW TABLES",
    "SET @x = 1",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE testapp_tag",
]
on_mysql_and_mariadb = pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)


@pytest.fixture
def commits(server_alias):
    """Whether a statement commits the transaction in which it is executed, even if it fails."""

    def execute(statement):
        Place.objects.using(server_alias).create(name="a")
        session = connections[server_alias].copy()
        session.set_autocommit(False)
        with session.cursor() as cursor:
            cursor.execute("UPDATE testapp_place SET n = 1")
            with contextlib.suppress(Exception):
                cursor.execute(statement)
        session.rollback()
        session.close()
        return Place.objects.using(server_alias).get().n == 1

    yield execute
    with connections[server_alias].cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS massmigration_x, massmigration_z")


@on_mysql_and_mariadb
@pytest.mark.parametrize("statement", COMMITTING)
def test_a_statement_that_commits_is_known(server_alias, commits, statement):
    is_known = bool(dialect_of(server_alias).implicit_commits().match(statement))

    assert is_known or not commits(statement)


@on_mysql_and_mariadb
@pytest.mark.parametrize("statement", HARMLESS)
def test_a_statement_that_does_not_commit_is_not_refused(server_alias, commits, statement):
    assert not commits(statement)
    assert not dialect_of(server_alias).implicit_commits().match(statement)


def test_without_a_transaction_a_commit_is_no_error(db_alias, places, monkeypatch):
    key = register(monkeypatch, type("Migration", (counting(raw, go_on),), {"atomic": False}))

    assert launch(key, db_alias).status == Status.APPLIED
    assert not FailedObject.objects.using(db_alias).exists()
