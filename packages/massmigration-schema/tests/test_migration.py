import datetime as dt

import pytest
from django.db import connections, migrations, models
from django.db.migrations.state import ProjectState

from massmigration.exceptions import BadMigrationFile, GateClosed
from massmigration_schema import Online, OnlineMigration
from massmigration_schema.exceptions import LockNotGranted
from testsupport.shop import TABLES, Reader

LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
SHORTER = migrations.AlterField("campaign", "name", models.CharField(max_length=100))


def columns(shop):
    return list(shop.definition().columns)


def test_a_small_table_is_altered(shop):
    shop.fill(3)

    shop.apply(shop.migration(SHORTER, direct_up_to=3))

    assert shop.definition().columns["name"].type in ("character varying(100)", "varchar(100)")
    assert shop.model()._meta.get_field("name").max_length == 100


def test_a_large_table_is_altered_if_nobody_is_blocked(shop):
    shop.fill(3)

    shop.apply(shop.migration(LIKES, direct_up_to=2))

    assert "likes" in columns(shop)


def test_a_large_table_is_not_altered_if_that_rewrites_it(shop):
    shop.fill(3)
    before = shop.definition()

    with pytest.raises(GateClosed) as raised:
        shop.apply(shop.migration(LIKES, SHORTER, direct_up_to=2))

    assert str(raised.value) == (
        "Schema migration shop.0002_change was not applied: table 'campaign' has more than 2 rows, and its writers "
        "would be blocked by: Alter field name on campaign. Make it online: manage.py onlinemigration start shop "
        "0002_change"
    )
    assert shop.definition() == before


def test_a_large_table_is_never_altered_with_the_strategy_shadow(shop):
    shop.fill(3)

    with pytest.raises(GateClosed, match="would be blocked by: the strategy chosen"):
        shop.apply(shop.migration(LIKES, direct_up_to=2, strategy="shadow"))

    assert "likes" not in columns(shop)


def test_a_large_table_is_always_altered_with_the_strategy_direct(shop):
    shop.fill(3)

    shop.apply(shop.migration(SHORTER, direct_up_to=0, strategy="direct"))

    assert shop.model()._meta.get_field("name").max_length == 100


def test_a_change_that_cannot_be_made_online_is_refused_for_a_large_table(shop):
    shop.fill(3)
    other = migrations.AddField("note", "likes", models.IntegerField(null=True))

    with pytest.raises(GateClosed, match=r"(?s)shop\.0002_change cannot be made online:.*online\.models"):
        shop.apply(shop.migration(LIKES, other, direct_up_to=2))

    assert "likes" not in columns(shop)


def test_a_change_that_cannot_be_made_online_is_made_on_small_tables(shop):
    other = migrations.AddField("note", "likes", models.IntegerField(null=True))

    shop.apply(shop.migration(LIKES, other, direct_up_to=0))

    assert "likes" in columns(shop)
    assert "likes" in shop.definition("shop_note").columns


def test_the_tables_of_a_new_database_are_created(shop):
    shop.drop()
    shop.state = ProjectState()

    shop.apply(shop.migration(*TABLES))

    assert shop.definition() is not None


def test_a_transaction_in_the_way_is_waited_for(shop):
    shop.fill(1)
    migration = shop.migration(LIKES)
    tries = []

    with Reader(shop.db_alias) as reader:

        def count(execute, sql, params, many, context):
            is_try = {
                "postgresql": params == ["50ms"],
                "mariadb": "lock_wait_timeout = 0" in sql,
                "mysql": "metadata_locks" in sql,  # the look before a try
            }
            tries.extend([sql] if is_try[shop.db_alias] else [])
            if len(tries) == 3:
                reader.end()
            return execute(sql, params, many, context)

        with connections[shop.db_alias].execute_wrapper(count):
            shop.apply(migration)

    assert "likes" in columns(shop)
    assert len(tries) >= 3


def test_the_migration_is_given_up_without_the_lock(shop):
    shop.fill(1)
    migration = shop.migration(LIKES, lock_patience=dt.timedelta(microseconds=1))

    with Reader(shop.db_alias), pytest.raises(LockNotGranted, match="Table 'campaign': its lock was not granted"):
        shop.apply(migration)

    assert "likes" not in columns(shop)


def test_sqlmigrate_shows_the_statements_of_the_operations(shop):
    shop.fill(3)

    editor = shop.apply(shop.migration(SHORTER, direct_up_to=0), collect_sql=True)

    assert any("ALTER TABLE" in sql for sql in editor.collected_sql)


def test_a_small_table_is_altered_back(shop):
    shop.fill(1)
    migration = shop.migration(LIKES)
    before = shop.state.clone()
    shop.apply(migration)

    with shop.connection.schema_editor() as editor:
        migration.unapply(before, editor)

    assert "likes" not in columns(shop)


def test_a_large_table_is_not_altered_back(shop):
    shop.fill(3)
    migration = shop.migration(LIKES, direct_up_to=2)
    before = shop.state.clone()
    shop.apply(migration)

    with (
        pytest.raises(GateClosed, match=r"shop\.0002_change cannot be reversed on a table of more than 2 rows"),
        shop.connection.schema_editor() as editor,
    ):
        migration.unapply(before, editor)

    assert "likes" in columns(shop)


def test_sqlite_is_altered_directly(transactional_db):
    class Migration(OnlineMigration):
        operations = [*TABLES[:2], LIKES]

    with connections["default"].schema_editor() as editor:
        state = Migration("0001_initial", "shop").apply(ProjectState(), editor)
        names = [
            column.name
            for column in connections["default"].introspection.get_table_description(
                connections["default"].cursor(), "campaign"
            )
        ]

    assert "likes" in names
    assert state.models["shop", "campaign"].fields["likes"].default == 7


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "magic"}, "Online(strategy='magic'); allowed: 'auto', 'shadow', 'direct'."),
        ({"direct_up_to": -1}, "Online(direct_up_to=-1); it must be a number of rows, 0 or more."),
        ({"direct_up_to": True}, "Online(direct_up_to=True); it must be a number of rows, 0 or more."),
        ({"reverse_sync": 1}, "Online(reverse_sync=1); allowed: True, False."),
        ({"max_batch_size": 0}, "Online(max_batch_size=0); it must be a number of rows, 1 or more."),
        ({"batch_duration": 3}, "Online(batch_duration=3); it must be a timedelta greater than 0."),
        ({"lock_patience": 3}, "Online(lock_patience=3); it must be a timedelta greater than 0."),
        (
            {"max_stall": dt.timedelta(0)},
            "Online(max_stall=datetime.timedelta(0)); it must be a timedelta greater than 0.",
        ),
    ],
)
def test_an_impossible_option_is_refused(options, text):
    with pytest.raises(BadMigrationFile) as raised:
        Online(**options)

    assert str(raised.value) == text
