import pytest
from django.core.management import call_command
from django.db import IntegrityError, connections
from django.db.models import QuerySet

from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord


def test_the_schema_migrations_are_complete(db_alias):
    call_command("makemigrations", "massmigration", "testapp", check=True, dry_run=True, verbosity=0)


@pytest.mark.parametrize("model", [MigrationRecord, ShardRecord, FailedObject, Event], ids=lambda model: model.__name__)
def test_every_database_has_its_records(db_alias, model):
    tables = connections[db_alias].introspection.table_names()

    assert model._meta.db_table in tables
    assert model.objects.using(db_alias).count() == 0


def test_no_table_of_ours_has_a_foreign_key_in_the_database(db_alias):
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        keys = [connection.introspection.get_relations(cursor, model._meta.db_table) for model in (ShardRecord, Event)]

    assert keys == [{}, {}]


def test_a_shard_is_there_once(db_alias):
    shard = {"record_id": "testapp:0001", "attempt_id": "0" * 32, "stage": 0, "index": 0}
    ShardRecord.objects.using(db_alias).create(**shard)

    with pytest.raises(IntegrityError):
        ShardRecord.objects.using(db_alias).create(**shard)


def test_queries_to_an_sql_database_are_those_of_django(db_alias):
    assert type(MigrationRecord.objects.using(db_alias)) is QuerySet


@pytest.mark.parametrize("ask", [lambda rows, db_alias: rows.all(), lambda rows, db_alias: rows.using(db_alias)])
def test_a_record_has_its_own_shards(db_alias, ask):
    shard = {"attempt_id": "0" * 32, "stage": 0, "index": 0}
    one, two = (MigrationRecord.objects.using(db_alias).create(key=f"testapp:000{number}") for number in (1, 2))
    ShardRecord.objects.using(db_alias).create(record=one, **shard)
    ShardRecord.objects.using(db_alias).create(record=two, **shard)

    assert [each.record_id for each in ask(one.shards, db_alias)] == ["testapp:0001"]
