import pytest
from django.db import migrations, models

from massmigration_schema.costs import Cost
from testsupport.shop import check

TEXT = models.CharField
INSTANT, IN_PLACE, BLOCKS, COPY = Cost.INSTANT, Cost.IN_PLACE, Cost.BLOCKS, Cost.COPY


def alter(name, field):
    return migrations.AlterField("campaign", name, field)


def add(name, field):
    return migrations.AddField("campaign", name, field)


# Each with the cost on PostgreSQL and on MariaDB.
OPERATIONS = {
    "add a nullable column": (add("likes", models.IntegerField(null=True)), INSTANT, INSTANT),
    "add a column with a default": (add("likes", models.IntegerField(default=7)), INSTANT, INSTANT),
    "add a unique column": (add("likes", models.IntegerField(null=True, unique=True)), BLOCKS, IN_PLACE),
    "add an indexed column": (add("likes", models.IntegerField(null=True, db_index=True)), BLOCKS, IN_PLACE),
    "add a foreign key": (
        add("payer", models.ForeignKey("shop.Account", models.PROTECT, null=True, related_name="+")),
        BLOCKS,
        COPY,
    ),
    "remove a column": (migrations.RemoveField("campaign", "description"), INSTANT, INSTANT),
    "rename a column": (migrations.RenameField("campaign", "description", "about"), INSTANT, INSTANT),
    "another default": (alter("description", TEXT(max_length=255, default="x")), INSTANT, INSTANT),
    "longer text": (alter("description", TEXT(max_length=400, default="")), INSTANT, None),
    "shorter text": (alter("description", TEXT(max_length=40, default="")), COPY, COPY),
    "text": (alter("description", models.TextField(default="")), INSTANT, COPY),
    "nullable": (alter("description", TEXT(max_length=255, null=True)), INSTANT, None),
    "not null": (alter("post", TEXT(max_length=128)), BLOCKS, None),
    "not null with a default": (alter("post", TEXT(max_length=128, default="")), COPY, COPY),
    "more digits": (alter("budget", models.DecimalField(max_digits=14, decimal_places=2)), INSTANT, COPY),
    "more decimal places": (alter("budget", models.DecimalField(max_digits=14, decimal_places=4)), COPY, COPY),
    "big key": (alter("id", models.BigAutoField(primary_key=True)), COPY, None),
    "unique": (alter("post", TEXT(max_length=128, null=True, unique=True)), BLOCKS, IN_PLACE),
    "index": (
        migrations.AddIndex("campaign", models.Index(fields=["budget"], name="by_budget")),
        BLOCKS,
        IN_PLACE,
    ),
    "no index": (migrations.RemoveIndex("campaign", "campaign_start"), INSTANT, IN_PLACE),
    "check": (migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0))), BLOCKS, COPY),
    "options": (migrations.AlterModelOptions("campaign", {"verbose_name": "x"}), INSTANT, INSTANT),
}


@pytest.mark.parametrize(("operation", "postgresql", "mariadb"), OPERATIONS.values(), ids=OPERATIONS)
def test_each_operation_has_a_cost(shop, operation, postgresql, mariadb):
    likes = migrations.AddField("campaign", "other", models.IntegerField(null=True))

    first, second = shop.dialect.costs(shop.derive(operation, likes), shop.db_alias)

    expected = postgresql if shop.is_postgresql else mariadb
    assert expected is None or first.cost == expected
    assert second.cost == INSTANT
    assert "campaign" in str(first.description).lower()


def test_the_costs_are_found_without_a_change(shop):
    before = shop.definition(), shop.connection.introspection.table_names()

    shop.dialect.costs(
        shop.derive(alter("budget", models.DecimalField(max_digits=14, decimal_places=4))), shop.db_alias
    )

    assert (shop.definition(), shop.connection.introspection.table_names()) == before


def test_the_statements_that_were_tried_name_the_table(shop):
    if shop.is_postgresql:
        pytest.skip("PostgreSQL cannot be asked: its costs are rules.")

    (found,) = shop.dialect.costs(shop.derive(add("likes", models.IntegerField(null=True))), shop.db_alias)

    assert found.statements == ["ALTER TABLE `campaign` ADD COLUMN `likes` integer NULL"]


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_check_is_removed_and_made_again_under_its_own_name(shop):
    shop.migrate(migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0))))
    operations = [
        migrations.RemoveConstraint("campaign", "positive"),
        migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=1))),
    ]

    removed, added = shop.dialect.costs(shop.derive(*operations), shop.db_alias)

    assert (removed.cost, added.cost) == (INSTANT, COPY)
    assert removed.statements == [
        shop.connection.schema_editor().sql_delete_check % {"table": "`campaign`", "name": "`positive`"}
    ]
    assert added.statements[0].startswith("ALTER TABLE `campaign` ADD CONSTRAINT `positive` CHECK (")
    assert list(shop.catalog.checks("campaign")) == (["positive"] if shop.db_alias == "mysql" else ["data", "positive"])


@pytest.mark.parametrize("cost", Cost)
def test_each_cost_has_a_meaning(cost):
    assert cost.meaning.startswith(("instant", "in place", "blocks", "copies"))
