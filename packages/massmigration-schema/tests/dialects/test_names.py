"""Names of tables and columns that must be quoted, and names that are nearly the same."""

import pytest
from django.db import migrations, models, transaction

from massmigration_schema.derivation import derive
from massmigration_schema.migration import OnlineMigration
from massmigration_schema.options import Online
from testsupport.shop import LIMITS, Change

NAMES = {
    "a reserved word": "order",
    "upper case": "SHOP_Campaign",
    "an apostrophe": "shop_x'y",
    "spaces": "shop_ a b",
    "as long as possible": "shop_".ljust(58, "c"),
}
COLUMNS = ["group", "Upper", "a'b", "a.dot", "a space"]


def add(name, column):
    return migrations.AddField("campaign", name, models.CharField(max_length=20, default="old", db_column=column))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_table_with_an_unusual_name_can_be_changed(shop, name):
    shop.migrate(*(add(f"c{number}", column) for number, column in enumerate(COLUMNS)))
    shop.migrate(migrations.AlterModelTable("campaign", name))
    try:
        shop.fill(3)
        shop.objects("Note").create(campaign=shop.objects().first(), text="n")
        change = Change(
            shop,
            migrations.RenameField("campaign", "c3", "d3"),
            migrations.AlterField("campaign", "c2", models.CharField(max_length=30, db_column=COLUMNS[2])),
            add("likes", "Li'k es"),
        ).prepare()
        change.copy()
        shop.objects().filter(name="name 1").update(c0="new", c2="new")
        first = shop.objects().order_by("pk").first()
        change.resync(first.pk)
        assert (change.verify(), change.logged()) == (0, [])
        change.swap.make_ready()

        change.swap.swap(lambda: None)
        change.swap.finish()
        change.swap.cleanup()

        shop.declare(*change.derivation.operations)
        rows = shop.objects().order_by("pk").values_list("c0", "c2", "d3", "likes")
        assert list(rows) == [("old", "old", "old", "old"), ("new", "new", "old", "old"), ("old", "old", "old", "old")]
        assert shop.catalog.orphans() == []
        assert shop.objects("Note").filter(campaign__name="name 0").exists()
    finally:
        shop.migrate(migrations.AlterModelTable("campaign", "campaign"))


def test_two_tables_whose_names_begin_with_the_same_can_be_changed_at_once(shop):
    stem = "shop_".ljust(57, "t")
    fields = [("id", models.AutoField(primary_key=True)), ("text", models.CharField(max_length=20))]
    swaps = []
    for letter in "ab":
        shop.migrate(migrations.CreateModel(letter, fields, options={"db_table": stem + letter}))
    try:
        for letter in "ab":
            shop.execute(f"INSERT INTO {stem}{letter} (text) VALUES ('{letter}')")
            operation = migrations.AddField(letter, "likes", models.IntegerField(default=7))
            migration = type("Migration", (OnlineMigration,), {"operations": [operation], "online": Online()})
            derivation = derive(migration(f"0002_{letter}", "shop"), shop.state, shop.db_alias)
            swap = shop.dialect.swap(shop.db_alias, derivation, LIMITS)
            swap.tables.build()
            swap.tables.create_triggers()
            swaps.append((letter, swap, derivation.required_plan()))
        for letter, swap, plan in swaps:
            shop.execute(f"INSERT INTO {stem}{letter} (text) VALUES ('{letter} later')")
            with transaction.atomic(shop.db_alias):
                shop.dialect.rows(shop.db_alias, plan).copy(shop.objects(letter).all())
            swap.make_ready()
        for _, swap, _ in swaps:
            swap.swap(lambda: None)
            swap.finish()
            swap.cleanup()

        found = {letter: shop.execute(f"SELECT text, likes FROM {stem}{letter} ORDER BY id") for letter in "ab"}
        assert found == {letter: [(letter, 7), (f"{letter} later", 7)] for letter in "ab"}
        assert shop.catalog.orphans() == []
    finally:
        for letter in "ab":
            shop.execute(f"DROP TABLE {stem}{letter}")
