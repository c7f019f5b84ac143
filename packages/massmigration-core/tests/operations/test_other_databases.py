"""Copies to other databases and schemas."""

import pytest
from django.conf import settings as django_settings
from django.db import connections
from django.db.models import Value

from massmigration import dryrun
from massmigration.exceptions import BadMigrationFile, CannotDryRun
from massmigration.operations import CopyModelData, CopyModelDataToNamespace, OperationsMigration, copy_rows
from testsupport import databases
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.operations_app.models import Archived, Card, Person

ROWS = 30


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 7


@pytest.fixture
def other(server_alias):
    """The alias of another database than that of the fixture `server_alias`."""
    servers = [alias for alias in django_settings.DATABASES if alias not in (server_alias, "default")]
    found = next(iter(servers), "default")
    yield found
    databases.empty(found)


@pytest.fixture
def schema(server_alias):
    """A second schema, with a table for the model `Archived`."""
    connection = connections[server_alias]
    name = f"other schema {connection.settings_dict['NAME']}"
    quoted, table = connection.ops.quote_name(name), connection.ops.quote_name(Archived._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {quoted}" + (" CASCADE" if connection.vendor == "postgresql" else ""))
        cursor.execute(f"CREATE SCHEMA {quoted}")
        including = (
            "(LIKE people_archived INCLUDING ALL)" if connection.vendor == "postgresql" else "LIKE people_archived"
        )
        cursor.execute(f"CREATE TABLE {quoted}.{table} {including}")
    yield name
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {quoted}" + (" CASCADE" if connection.vendor == "postgresql" else ""))


def make_people(db_alias):
    Person.objects.using(db_alias).bulk_create(Person(name=f"P {index}", data={"i": index}) for index in range(ROWS))


def migration_of(*operations, **attributes):
    return type("Migration", (OperationsMigration,), {"operations": operations, **attributes})


def run(monkeypatch, db_alias, operation):
    return launch(register(monkeypatch, migration_of(operation, allowed_db_aliases=[db_alias])), db_alias)


def rows(model, db_alias):
    names = ["pk", "name", "nick", "token", "data", "n"]
    return list(model.objects.using(db_alias).order_by("pk").values_list(*names))


def to_other_model(namespace, **options):
    return CopyModelDataToNamespace(
        "people.Person", namespace, to_app_label="people", to_model_name="Archived", **options
    )


def test_rows_go_to_another_database(server_alias, other, monkeypatch):
    make_people(server_alias)
    there = Person.objects.using(server_alias).order_by("pk")[12]
    Archived.objects.using(other).create(pk=there.pk, name="was here")

    record = run(monkeypatch, server_alias, to_other_model(other))

    assert record.status == "applied", record.last_error
    assert Archived.objects.using(other).get(pk=there.pk).name == "was here"
    assert rows(Archived, other)[:12] == rows(Person, server_alias)[:12]
    assert Archived.objects.using(other).count() == ROWS
    assert not Archived.objects.using(server_alias).exists()


def test_rows_there_are_overwritten_if_that_is_wanted(server_alias, other, monkeypatch):
    make_people(server_alias)
    there = Person.objects.using(server_alias).order_by("pk")[12]
    Archived.objects.using(other).create(pk=there.pk, name="was here")

    run(monkeypatch, server_alias, to_other_model(other, overwrite_existing=True))

    assert rows(Archived, other) == rows(Person, server_alias)


def test_what_sets_itself_is_copied_as_it_is(server_alias, other, monkeypatch):
    cards = Card.objects.using(server_alias)
    cards.bulk_create(Card(label=f"C {index}") for index in range(3))
    cards.update(issued_at="2001-02-03T04:05:06Z")

    run(monkeypatch, server_alias, CopyModelDataToNamespace("people.Card", other))

    names = ["pk", "label", "serial", "issued_at"]
    copies = Card.objects.using(other).order_by("pk").values_list(*names)
    assert list(copies) == list(cards.order_by("pk").values_list(*names))


def test_where_the_routers_have_the_target_elsewhere_rows_go_there(server_alias, other, monkeypatch, settings):
    class Router:
        def db_for_write(self, model, **hints):
            return other if model is Archived else None

        def allow_migrate(self, alias, app_label, model_name=None, **hints):
            return alias == other if model_name == "archived" else None

    settings.DATABASE_ROUTERS = [Router()]
    make_people(server_alias)

    record = run(monkeypatch, server_alias, CopyModelData("people.Person", "people.Archived"))

    assert record.status == "applied", record.last_error
    assert rows(Archived, other) == rows(Person, server_alias)


def test_a_dry_run_of_what_leaves_the_database_is_refused(server_alias, other, monkeypatch):
    make_people(server_alias)
    key = register(monkeypatch, migration_of(to_other_model(other), allowed_db_aliases=[server_alias]))

    with pytest.raises(CannotDryRun):
        dryrun.dry_run(key, server_alias, 3)

    assert not Archived.objects.using(other).exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_rows_go_to_another_schema(server_alias, schema, monkeypatch, overwrite):
    make_people(server_alias)
    there = Person.objects.using(server_alias).order_by("pk")[12]
    connection = connections[server_alias]
    place = copy_rows.Place(db_alias=server_alias, schema=schema)
    table, key = copy_rows.qualified(place, Archived), connection.ops.quote_name("the number")
    with connection.cursor() as cursor:
        columns = f"({key}, name, data, n, reason)"
        cursor.execute(f"INSERT INTO {table} {columns} VALUES (%s, 'was here', '{{}}', 0, 'x')", [there.pk])

    record = run(monkeypatch, server_alias, to_other_model(schema, overwrite=overwrite, map={"reason": Value("c")}))

    assert record.status == "applied", record.last_error
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {key}, name, reason FROM {table} ORDER BY {key}")
        found = {pk: (name, reason) for pk, name, reason in cursor.fetchall()}
    wanted = {pk: (name, "c") for pk, name in Person.objects.using(server_alias).values_list("pk", "name")}
    assert found == (wanted if overwrite else {**wanted, there.pk: ("was here", "x")})
    assert not Archived.objects.using(server_alias).exists()


def test_a_schema_without_the_table_is_refused(server_alias, schema, monkeypatch):
    with pytest.raises(BadMigrationFile, match="there is no table 'people_person' in schema"):
        run(monkeypatch, server_alias, CopyModelDataToNamespace("people.Person", schema))


def test_a_namespace_is_that_of_an_alias(db_alias, monkeypatch):
    monkeypatch.setitem(connections[db_alias].settings_dict, "NAMESPACE", "ns1")

    assert copy_rows.find_place("ns1", "default").db_alias == db_alias


def test_a_kind_of_the_datastore_need_not_be_there(monkeypatch):
    connection = connections["default"]
    monkeypatch.setattr("massmigration.dialects.is_document_engine", lambda engine: True)
    monkeypatch.setattr(connection, "introspection", None)

    assert copy_rows.has_table(copy_rows.Place(db_alias="default"), Person)


def test_without_gcloudc_a_namespace_of_the_datastore_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "google")

    assert copy_rows.find_place("ns1", "default").endswith(
        "gcloudc, Django's database backend for Datastore, is not installed."
    )
