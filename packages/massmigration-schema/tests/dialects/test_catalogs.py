import pytest
from django.db import migrations, models

from massmigration_schema.definition import TableDefinition, differences, errors
from testsupport.shop import check, executed

PLAIN = {
    "as created": [],
    "added field": [migrations.AddField("campaign", "likes", models.IntegerField(default=7))],
    "added foreign key": [
        migrations.AddField(
            "campaign", "payer", models.ForeignKey("shop.Account", models.PROTECT, null=True, related_name="+")
        )
    ],
    "longer text": [migrations.AlterField("campaign", "post", models.CharField(max_length=200, null=True))],
    "positive number": [migrations.AddField("campaign", "likes", models.PositiveIntegerField(default=7))],
    "text with index": [migrations.AlterField("campaign", "post", models.TextField(null=True))],
    "renamed": [migrations.RenameField("campaign", "description", "about")],
    "removed": [migrations.RemoveField("campaign", "description")],
    "unique": [migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))],
    "check": [migrations.AddConstraint("campaign", check("campaign_budget", models.Q(budget__gte=0)))],
    "big key": [migrations.AlterField("campaign", "id", models.BigAutoField(primary_key=True))],
}


def without_children(definition):
    return TableDefinition(**{**definition.to_json(), "columns": definition.columns, "incoming": {}})


@pytest.mark.parametrize("operations", PLAIN.values(), ids=PLAIN)
def test_a_table_that_migrations_have_altered_is_as_expected(shop, operations):
    shop.migrate(*operations)

    expected = shop.catalog.expected("shop", shop.model(), shop.state)

    assert errors(without_children(shop.definition()), expected) == []


DRIFT = {
    "missing_column": "ALTER TABLE campaign DROP COLUMN description",
    "extra_column": "ALTER TABLE campaign ADD COLUMN extra integer",
    "type": "ALTER TABLE campaign {} name {}",
    "missing_index": {
        "postgresql": "DROP INDEX campaign_start",
        "mariadb": "DROP INDEX campaign_start ON campaign",
        "mysql": "DROP INDEX campaign_start ON campaign",
    },
    "extra_index": "CREATE INDEX extra ON campaign (budget)",
    "extra_constraint": "ALTER TABLE campaign ADD CONSTRAINT extra CHECK (budget > 0)",
    "default": "ALTER TABLE campaign ALTER COLUMN budget SET DEFAULT 3",
    "missing_foreign_key": None,
}


@pytest.mark.parametrize("code", DRIFT)
def test_a_table_that_was_altered_by_hand_is_found(shop, code):
    sql = DRIFT[code]
    if code == "missing_foreign_key":
        (name,) = shop.definition().foreign_keys
        sql = f"ALTER TABLE campaign DROP {'CONSTRAINT' if shop.is_postgresql else 'FOREIGN KEY'} {name}"
    if code == "type":
        sql = sql.format(*(("ALTER COLUMN", "TYPE text") if shop.is_postgresql else ("MODIFY", "text NOT NULL")))
        shop.execute("ALTER TABLE campaign DROP CONSTRAINT campaign_name" if shop.is_postgresql else "SELECT 1")
        if not shop.is_postgresql:
            shop.execute("ALTER TABLE campaign DROP FOREIGN KEY " + next(iter(shop.definition().foreign_keys)))
            shop.execute("DROP INDEX campaign_name ON campaign")
    shop.execute(sql[shop.db_alias] if isinstance(sql, dict) else sql)

    expected = shop.catalog.expected("shop", shop.model(), shop.state)

    assert code in [each.code for each in differences(without_children(shop.definition()), expected)]


def test_a_table_is_read_with_everything_that_belongs_to_it(shop):
    found = shop.definition()

    assert list(found.columns)[:3] == ["id", "name", "objective"]
    assert found.columns["id"].identity
    assert found.columns["post"].is_nullable
    assert not found.columns["name"].is_nullable
    assert "campaign_name" in found.constraints
    assert "campaign_start" in found.indexes
    assert "DESC" in found.indexes["campaign_start"] or not shop.connection.features.supports_index_column_ordering
    assert len(found.foreign_keys) == 1
    assert [name.split(".")[-2].strip('"') for name in found.incoming] == ["shop_note"]


def test_a_trigger_is_read(shop):
    if shop.is_postgresql:
        shop.execute(
            "CREATE TRIGGER twin BEFORE UPDATE ON campaign FOR EACH ROW EXECUTE FUNCTION "
            "suppress_redundant_updates_trigger()"
        )
    else:
        shop.execute("CREATE TRIGGER twin BEFORE UPDATE ON campaign FOR EACH ROW SET NEW.name = NEW.name")

    assert list(shop.definition().triggers) == ["twin"]


def test_a_table_that_is_not_there_has_no_definition(shop):
    assert shop.catalog.read("shop_nothing") is None


def test_reading_what_is_expected_leaves_nothing_behind(shop):
    before = shop.connection.introspection.table_names()

    shop.catalog.expected("shop", shop.model(), shop.state)

    assert shop.connection.introspection.table_names() == before
    if shop.is_postgresql:
        assert shop.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mm\\_%'") == []


def test_reading_what_is_expected_locks_no_other_table(shop):
    with executed(shop.db_alias) as statements:
        shop.catalog.expected("shop", shop.model(), shop.state)

    assert not [sql for sql in statements if "REFERENCES" in sql and not sql.lstrip().startswith("SELECT")]


def test_rows_are_counted_up_to_a_limit(shop):
    shop.fill(3)

    assert shop.catalog.has_at_most("campaign", 3)
    assert not shop.catalog.has_at_most("campaign", 2)


MYSQL_ONLY = {
    "an index of an expression": (
        "CREATE INDEX by_length ON campaign ((LENGTH(name)))",
        "extra_index",
        "(length(`name`))",
    ),
    "a check that is not enforced": (
        "ALTER TABLE campaign ADD CONSTRAINT extra CHECK (budget > 0) NOT ENFORCED",
        "extra_constraint",
        "NOT ENFORCED",
    ),
    "a default": ("ALTER TABLE campaign ALTER COLUMN post SET DEFAULT 'NULL'", "default", "'NULL'"),
    "a default that is an expression": (
        "ALTER TABLE campaign ALTER COLUMN post SET DEFAULT (CONCAT('a', 'b'))",
        "default",
        "(concat(",
    ),
}


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
@pytest.mark.parametrize(("sql", "code", "text"), MYSQL_ONLY.values(), ids=MYSQL_ONLY)
def test_what_mysql_alone_has_is_found(shop, sql, code, text):
    before = shop.definition()

    shop.execute(sql)

    (found,) = differences(shop.definition(), before)
    assert found.code == code
    assert text in found.found
