import pytest
from django.db import connections

from massmigration.dialects import dialect_of, mysql_base, postgresql, sqlite
from massmigration.dialects.base import Access
from massmigration.paging.explain import explain
from massmigration.paging.keyset import Keyset
from massmigration.paging.querysets import prepare
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.testapp.models import Awkward, Item, Restaurant

ROWS = 3000
NOTHING = "suppress_redundant_updates_trigger"


@pytest.fixture
def items(db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"item {number}") for number in range(ROWS))
    if db_alias != "default":
        with connections[db_alias].cursor() as cursor:
            # Dead rows of other tests make an index seem larger than its table.
            cursor.execute(DATABASE_SERVERS[db_alias].rebuild("testapp_item"))
    return Item.objects.using(db_alias)


def explain_batch(queryset, db_alias, keyset=None):
    prepared = prepare(queryset, db_alias, name="x:1_y")
    return explain(prepared, keyset or Keyset.of(prepared.model))


def test_the_primary_key_leads_to_each_batch(items, db_alias):
    plan = explain_batch(items, db_alias)

    assert plan.access is Access.SEEK
    named = {"default": "integer primary key", "postgresql": "testapp_item_pkey"}
    assert [name.lower() for name in plan.indexes] == [named.get(db_alias, "primary")]
    assert connections[db_alias].ops.quote_name("testapp_item") in plan.sql
    assert "LIMIT 100" in plan.sql


def test_the_batches_are_those_of_the_cursor_field(items, db_alias):
    plan = explain_batch(items, db_alias, Keyset.by(Item._meta.get_field("name")))

    assert plan.access is not Access.SEEK
    order = plan.sql.rpartition("ORDER BY")[2]
    assert connections[db_alias].ops.quote_name("name") in order


@pytest.mark.parametrize(
    ("told", "access"),
    [
        (sqlite.access_path("2 0 0 SCAN t\n3 0 0 USE TEMP B-TREE FOR ORDER BY"), Access.SORT),
        (sqlite.access_path("2 0 0 SCAN t"), Access.SCAN),
        (postgresql.access_path([{"Node Type": "Sort"}, {"Node Type": "Bitmap Heap Scan"}]), Access.SORT),
        (postgresql.access_path([{"Node Type": "Sort"}, {"Node Type": "Seq Scan"}]), Access.SCAN),
        (mysql_base.access_path([{"filesort": {}}, {"access_type": "ref", "key": "a"}]), Access.SORT),
        (mysql_base.access_path([{"using_filesort": True}]), Access.SORT),
        (mysql_base.access_path([{"access_type": "ALL"}]), Access.SCAN),
        (mysql_base.access_path([{"access_type": "sort"}, {"access_type": "table"}]), Access.SORT),
        (mysql_base.access_path([{"access_type": "table"}]), Access.SCAN),
    ],
)
def test_sorts_and_scans_are_known_by_what_the_engines_say(told, access):
    assert told[0] is access


def test_an_empty_table_is_said_to_be_empty(db_alias):
    assert explain_batch(Item.objects.using(db_alias), db_alias).access is Access.EMPTY


@pytest.mark.parametrize("queryset", [Item.objects.none(), Item.objects.filter(pk__in=[])], ids=["none", "empty"])
def test_what_can_have_no_row_is_said_to_be_empty_and_expected_to_be(items, db_alias, queryset):
    assert explain_batch(queryset.using(db_alias), db_alias).access is Access.EMPTY
    assert not dialect_of(db_alias).estimated_query_rows(queryset.using(db_alias))


@pytest.mark.parametrize("model", [Awkward, Restaurant])
def test_quoted_names_and_inherited_tables_are_explained(db_alias, model):
    model.objects.using(db_alias).create()

    assert explain_batch(model.objects.using(db_alias), db_alias).access is not Access.EMPTY


def test_triggers_on_the_table_are_found(db_alias):
    table = connections[db_alias].ops.quote_name(Awkward._meta.db_table)
    make, drop = {
        "default": (f"CREATE TRIGGER noisy AFTER UPDATE ON {table} BEGIN SELECT 1; END", "DROP TRIGGER noisy"),
        "postgresql": (
            f"CREATE TRIGGER noisy BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {NOTHING}()",
            f"DROP TRIGGER noisy ON {table}",
        ),
        **dict.fromkeys(
            ("mariadb", "mysql"),
            (f"CREATE TRIGGER noisy BEFORE UPDATE ON {table} FOR EACH ROW SET @x = 1", "DROP TRIGGER noisy"),
        ),
    }[db_alias]

    with connections[db_alias].cursor() as cursor:
        cursor.execute(make)
        found = dialect_of(db_alias).trigger_names(Awkward), dialect_of(db_alias).trigger_names(Item)
        cursor.execute(drop)

    assert found == (["noisy"], [])
