import pytest
from django.db import connections

from massmigration import estimates, hazards, queryplan
from massmigration.queryplan import Access
from massmigration.querysets import prepare
from testsupport.testapp.models import Awkward, Item, Restaurant

ROWS = 3000
NOTHING = "suppress_redundant_updates_trigger"


@pytest.fixture
def items(db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"item {number}") for number in range(ROWS))
    if db_alias != "default":
        with connections[db_alias].cursor() as cursor:
            # What other tests have left behind makes an index look larger than its table.
            rebuild = (
                "VACUUM (FULL, ANALYZE) testapp_item" if db_alias == "postgresql" else "ANALYZE TABLE testapp_item"
            )
            cursor.execute(rebuild)
    return Item.objects.using(db_alias)


def explain(queryset, db_alias):
    return queryplan.explain(prepare(queryset, db_alias, name="x:1_y"))


def test_the_primary_key_leads_to_each_batch(items, db_alias):
    plan = explain(items, db_alias)

    assert plan.access is Access.SEEK
    assert [name.lower() for name in plan.indexes] == [
        {"default": "integer primary key", "postgresql": "testapp_item_pkey", "mariadb": "primary"}[db_alias]
    ]
    assert connections[db_alias].ops.quote_name("testapp_item") in plan.sql
    assert "LIMIT 500" in plan.sql


@pytest.mark.parametrize(
    ("told", "access"),
    [
        (queryplan._of_sqlite("", "2 0 0 SCAN t\n3 0 0 USE TEMP B-TREE FOR ORDER BY"), Access.SORT),
        (queryplan._of_sqlite("", "2 0 0 SCAN t"), Access.SCAN),
        (queryplan._of_postgresql("", [{"Node Type": "Sort"}, {"Node Type": "Bitmap Heap Scan"}]), Access.SORT),
        (queryplan._of_postgresql("", [{"Node Type": "Sort"}, {"Node Type": "Seq Scan"}]), Access.SCAN),
        (queryplan._of_mysql("", [{"filesort": {}}, {"access_type": "ref", "key": "a"}]), Access.SORT),
        (queryplan._of_mysql("", [{"using_filesort": True}]), Access.SORT),
        (queryplan._of_mysql("", [{"access_type": "ALL"}]), Access.SCAN),
    ],
)
def test_sorts_and_scans_are_known_by_what_the_engines_say(told, access):
    assert told.access is access


def test_an_empty_table_is_said_to_be_empty(db_alias):
    assert explain(Item.objects.using(db_alias), db_alias).access is Access.EMPTY


@pytest.mark.parametrize("queryset", [Item.objects.none(), Item.objects.filter(pk__in=[])], ids=["none", "empty"])
def test_what_can_have_no_row_is_said_to_be_empty_and_expected_to_be(items, db_alias, queryset):
    assert explain(queryset.using(db_alias), db_alias).access is Access.EMPTY
    assert not estimates.explained_rows(queryset.using(db_alias))


@pytest.mark.parametrize("model", [Awkward, Restaurant])
def test_quoted_names_and_inherited_tables_are_explained(db_alias, model):
    model.objects.using(db_alias).create()

    assert explain(model.objects.using(db_alias), db_alias).access is not Access.EMPTY


def test_triggers_on_the_table_are_found(db_alias):
    table = connections[db_alias].ops.quote_name(Awkward._meta.db_table)
    make, drop = {
        "default": (f"CREATE TRIGGER noisy AFTER UPDATE ON {table} BEGIN SELECT 1; END", "DROP TRIGGER noisy"),
        "postgresql": (
            f"CREATE TRIGGER noisy BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {NOTHING}()",
            f"DROP TRIGGER noisy ON {table}",
        ),
        "mariadb": (f"CREATE TRIGGER noisy BEFORE UPDATE ON {table} FOR EACH ROW SET @x = 1", "DROP TRIGGER noisy"),
    }[db_alias]

    with connections[db_alias].cursor() as cursor:
        cursor.execute(make)
        found = hazards.triggers(Awkward, db_alias), hazards.triggers(Item, db_alias)
        cursor.execute(drop)

    assert found == (["noisy"], [])
