import pytest
from django.db import migrations, models

from massmigration_schema import guard
from testsupport.shop import executed

LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
BIG_KEY = migrations.AlterField("campaign", "id", models.BigAutoField(primary_key=True))


def refusals(shop, *operations):
    return guard.refusals(shop.derive(*operations), shop.dialect, shop.db_alias)


def texts(shop, *operations):
    return {refusal.code: str(refusal) for refusal in refusals(shop, *operations)}


def test_an_ordinary_table_is_not_refused(shop):
    assert texts(shop, LIKES) == {}


def test_nothing_is_left_behind(shop):
    before = shop.definition(), shop.connection.introspection.table_names()

    refusals(shop, LIKES)

    assert (shop.definition(), shop.connection.introspection.table_names()) == before


def test_the_table_itself_is_not_read(shop):
    with executed(shop.db_alias) as statements:
        refusals(shop, LIKES)

    assert not [
        sql for sql in statements if "FROM campaign" in sql or "FROM `campaign`" in sql or 'FROM "campaign"' in sql
    ]


POSTGRESQL = {
    "online.triggers_exist": (
        [
            (
                "CREATE TRIGGER twin BEFORE UPDATE ON campaign FOR EACH ROW EXECUTE FUNCTION"
                " suppress_redundant_updates_trigger()"
            )
        ],
        "Table 'campaign' has triggers (twin), which an online change does not support yet.",
    ),
    "online.row_security": (
        ["ALTER TABLE campaign ENABLE ROW LEVEL SECURITY"],
        "Table 'campaign' has row-level security, which an online change does not support yet.",
    ),
    "online.dependents": (
        ["CREATE SCHEMA mm_test", "CREATE VIEW mm_test.names AS SELECT name FROM campaign"],
        "Table 'campaign' is used by mm_test.names, which an online change does not support yet.",
    ),
    "online.inheritance": (
        ["CREATE SCHEMA mm_test", "CREATE TABLE mm_test.more () INHERITS (campaign)"],
        (
            "Table 'campaign' inherits from, or is inherited by, mm_test.more, which an online change does not "
            "support yet."
        ),
    ),
    "online.temporary": (
        [
            "ALTER TABLE shop_note DROP CONSTRAINT {child}",
            "ALTER TABLE campaign DROP CONSTRAINT {own}",
            "ALTER TABLE campaign SET UNLOGGED",
        ],
        "Table 'campaign' is temporary or unlogged, which an online change does not support yet.",
    ),
    "online.column_privileges": (
        ["GRANT SELECT (name) ON campaign TO PUBLIC"],
        "Table 'campaign' has privileges of single columns (name), which an online change does not support yet.",
    ),
    "online.replica_identity": (
        ["ALTER TABLE campaign REPLICA IDENTITY FULL"],
        (
            "Table 'campaign' has a replica identity other than its primary key, which an online change does not "
            "support yet."
        ),
    ),
    "online.self_reference": (
        ["ALTER TABLE campaign ADD CONSTRAINT itself FOREIGN KEY (id) REFERENCES campaign (id)"],
        "Table 'campaign' refers to itself (itself), which an online change does not support yet.",
    ),
}
MARIADB = {
    "online.triggers_exist": (
        ["CREATE TRIGGER twin BEFORE UPDATE ON campaign FOR EACH ROW SET NEW.name = NEW.name"],
        "Table 'campaign' has triggers (twin), which an online change does not support yet.",
    ),
    "online.engine": (
        [
            "ALTER TABLE shop_note DROP FOREIGN KEY {child}",
            "ALTER TABLE campaign DROP FOREIGN KEY {own}",
            "ALTER TABLE campaign ENGINE = Aria",
        ],
        "Table 'campaign' has the storage engine Aria, which an online change does not support yet.",
    ),
    "online.partitioned": (
        [
            "ALTER TABLE shop_note DROP FOREIGN KEY {child}",
            "ALTER TABLE campaign DROP FOREIGN KEY {own}",
            "DROP INDEX campaign_name ON campaign",
            "ALTER TABLE campaign PARTITION BY HASH (id) PARTITIONS 2",
        ],
        "Table 'campaign' is partitioned, which an online change does not support yet.",
    ),
    "online.versioned": (
        ["ALTER TABLE campaign ADD SYSTEM VERSIONING"],
        "Table 'campaign' is system-versioned, which an online change does not support yet.",
    ),
    "online.self_reference": (
        ["ALTER TABLE campaign ADD CONSTRAINT itself FOREIGN KEY (id) REFERENCES campaign (id)"],
        "Table 'campaign' refers to itself (itself), which an online change does not support yet.",
    ),
    "online.sql_mode": (
        ["SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'"],
        (
            "sql_mode is 'NO_ENGINE_SUBSTITUTION'; it must contain STRICT_TRANS_TABLES. Without it, the server "
            "truncates"
            " values that do not fit. Set it in OPTIONS of the database."
        ),
    ),
}


@pytest.mark.parametrize(
    ("vendor", "code"), [*(("postgresql", code) for code in POSTGRESQL), *(("mariadb", code) for code in MARIADB)]
)
def test_a_table_that_cannot_be_copied_is_refused(shop, vendor, code):
    if vendor != shop.db_alias:
        pytest.skip(f"This is about {vendor}.")
    statements, text = (POSTGRESQL if shop.is_postgresql else MARIADB)[code]
    names = {
        "own": next(iter(shop.definition().foreign_keys)),
        "child": next(iter(shop.definition().incoming)).rpartition(".")[2],
    }
    try:
        for sql in statements:
            shop.execute(sql.format(**names))

        assert texts(shop, LIKES)[code] == text
    finally:
        if code == "online.sql_mode":
            shop.connection.close()


def test_a_table_that_is_not_there_is_refused(shop):
    shop.execute("DROP TABLE shop_note")
    shop.execute("DROP TABLE campaign")

    assert texts(shop, LIKES) == {"online.table": "There is no table 'campaign'. Apply the earlier migrations first."}


def test_another_type_of_the_key_is_refused_where_children_need_the_same(shop):
    found = texts(shop, BIG_KEY)

    if shop.is_postgresql:
        assert found == {}
        return
    (child,) = shop.definition().incoming
    assert found == {
        "online.key_children": f"The type of the primary key changes, and {child} refer to it. This database "
        "requires the "
        "same type on both sides: drop these foreign keys first."
    }


def test_a_table_that_was_altered_by_hand_is_refused(shop):
    shop.execute("ALTER TABLE campaign DROP COLUMN description")

    found = texts(shop, LIKES)

    assert list(found) == ["online.drift"]
    assert found["online.drift"].startswith(
        "Table 'campaign' is not what the applied migrations have made: missing_column: description is missing; "
        "expected "
    )


def test_the_refusals_of_the_operations_are_among_them(shop):
    assert list(texts(shop, migrations.AddField("campaign", "likes", models.IntegerField()))) == ["online.default"]


def test_operations_of_no_single_model_are_refused_without_asking_the_database(shop):
    with executed(shop.db_alias) as statements:
        found = texts(shop, migrations.RunPython(migrations.RunPython.noop))

    assert list(found) == ["online.operation"]
    assert statements == []


def test_missing_privileges_are_named(shop):
    if not shop.is_postgresql:
        pytest.skip("See the next test.")
    shop.execute("DROP ROLE IF EXISTS massmigration_tests_poor")
    shop.execute("CREATE ROLE massmigration_tests_poor")
    shop.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO massmigration_tests_poor")
    try:
        shop.execute("SET ROLE massmigration_tests_poor")
        found = shop.catalog.refusals("campaign")
    finally:
        shop.execute("RESET ROLE")
        shop.execute("DROP OWNED BY massmigration_tests_poor")
        shop.execute("DROP ROLE massmigration_tests_poor")

    assert [str(each) for each in found] == [
        (
            "The database user lacks CREATE on the database, TRIGGER on the table, ownership of the table. Grant "
            "it, and try"
            " again."
        )
    ]
