import os

import django
import pytest
from django.db import migrations, models

from massmigration_schema.definition import TableDefinition, differences
from massmigration_schema.exceptions import Refused
from testsupport.shop import TABLES, Change, check

TEXT = models.CharField


def alter(name, field):
    return migrations.AlterField("campaign", name, field)


def add(name, field):
    return migrations.AddField("campaign", name, field)


OPERATIONS = {
    "add": [add("likes", models.IntegerField(default=7))],
    "add nullable": [add("likes", models.IntegerField(null=True))],
    "add a text": [add("about", models.TextField(default="100 % 'sure'"))],
    "add a date": [add("ends_at", models.DateTimeField(null=True, db_index=True))],
    "add a positive number": [add("likes", models.PositiveSmallIntegerField(default=7))],
    "add unique": [add("code", TEXT(max_length=20, null=True, unique=True))],
    "add a foreign key": [add("payer", models.ForeignKey("shop.Account", models.PROTECT, null=True, related_name="+"))],
    "add json": [add("extra", models.JSONField(default=list))],
    "remove": [migrations.RemoveField("campaign", "description")],
    "remove a foreign key": [
        migrations.RemoveConstraint("campaign", "campaign_name"),
        migrations.RemoveField("campaign", "account"),
    ],
    "rename": [migrations.RenameField("campaign", "name", "title")],
    "rename a foreign key": [migrations.RenameField("campaign", "account", "owner")],
    "rename twice": [
        migrations.RenameField("campaign", "name", "title"),
        migrations.RenameField("campaign", "title", "heading"),
    ],
    "longer": [alter("name", TEXT(max_length=300))],
    "shorter": [alter("name", TEXT(max_length=100))],
    "to text": [alter("post", models.TextField(null=True))],
    "more digits": [alter("budget", models.DecimalField(max_digits=14, decimal_places=3))],
    "to a number": [alter("post", models.IntegerField(null=True))],
    "not null": [alter("post", TEXT(max_length=128, default=""))],
    "nullable": [alter("name", TEXT(max_length=255, null=True))],
    "column name": [alter("name", TEXT(max_length=255, db_column="Title"))],
    "big key": [alter("id", models.BigAutoField(primary_key=True))],
    "unique": [alter("post", TEXT(max_length=128, null=True, unique=True))],
    "index of a field": [alter("post", TEXT(max_length=128, null=True, db_index=True))],
    "no index of a field": [alter("objective", TEXT(max_length=255))],
    "foreign key without a constraint": [
        alter("account", models.ForeignKey("shop.Account", models.PROTECT, null=True, db_constraint=False))
    ],
    "index": [migrations.AddIndex("campaign", models.Index(fields=["budget", "-goal"], name="by_budget"))],
    "remove an index": [migrations.RemoveIndex("campaign", "campaign_start")],
    "rename an index": [migrations.RenameIndex("campaign", new_name="by_start", old_name="campaign_start")],
    "check": [migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0)))],
    "unique constraint": [
        migrations.AddConstraint("campaign", models.UniqueConstraint(fields=["post", "goal"], name="one_post"))
    ],
    "remove a constraint": [migrations.RemoveConstraint("campaign", "campaign_name")],
    "unique together": [migrations.AlterUniqueTogether("campaign", {("name", "post")})],
    "remove a check": [migrations.RemoveConstraint("campaign", "positive")],
    "rename what is positive": [migrations.RenameField("campaign", "likes", "hearts")],
    "a larger positive number": [alter("likes", models.PositiveBigIntegerField(default=7))],
    "remove what is positive": [migrations.RemoveField("campaign", "likes")],
    "remove, and add under the same name": [
        migrations.RemoveField("campaign", "post"),
        add("post", TEXT(max_length=9, default="x")),
    ],
    "two columns swap their names": [
        migrations.RenameField("campaign", "name", "old"),
        migrations.RenameField("campaign", "description", "name"),
        migrations.RenameField("campaign", "old", "description"),
    ],
    "comment": [migrations.AlterModelTableComment("campaign", "All campaigns.")],
    "add, rename, digits": [
        add("likes", models.IntegerField(default=7)),
        migrations.RenameField("campaign", "description", "about"),
        alter("budget", models.DecimalField(max_digits=14, decimal_places=3)),
    ],
    "the example of the original": [
        migrations.RenameField("campaign", "name", "display_name"),
        migrations.RenameField("campaign", "goal", "goal_spend"),
        migrations.RemoveField("campaign", "description"),
        alter("budget", models.DecimalField(max_digits=14, decimal_places=3)),
        alter("post", TEXT(max_length=128, null=True, db_index=True)),
        add("created_at", models.DateTimeField(null=True)),
        add("likes", models.IntegerField(default=7)),
        migrations.AddIndex("campaign", models.Index(fields=["objective", "budget"], name="by_objective")),
    ],
}


if django.VERSION >= (5, 0):
    OPERATIONS["add with a default of the database"] = [add("likes", models.IntegerField(db_default=7))]
    OPERATIONS["add a generated column"] = [
        add(
            "twice",
            models.GeneratedField(
                expression=models.F("budget") * 2,
                db_persist=True,
                output_field=models.DecimalField(max_digits=14, decimal_places=2),
            ),
        )
    ]


def shadow_of(shop, change):
    """Return the definition of the new table on PostgreSQL."""
    ((oid,),) = shop.execute("SELECT %s::regclass::oid::bigint", [change.shadow])
    return shop.catalog.read_oid(oid)


EXISTING = [add("likes", models.PositiveIntegerField(default=7))]
"""What is there before operations on a check that the server has named."""

FIRST = {
    "big key": [migrations.DeleteModel("Note")],  # whose foreign key MySQL and MariaDB would refuse
    "remove a check": [migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0)))],
    "rename what is positive": EXISTING,
    "a larger positive number": EXISTING,
    "remove what is positive": EXISTING,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_table_is_what_a_plain_migrate_would_have_made(shop, name):
    operations, first = OPERATIONS[name], FIRST.get(name, [])
    shop.migrate(*first)
    shop.fill(2)
    before, tables = shop.dump("campaign"), ["campaign", "shop_note"]
    if name == "big key":
        del tables[1]
    else:
        shop.execute("INSERT INTO shop_note (campaign_id, text) SELECT id, 'n' FROM campaign")
    change = Change(shop, *operations)
    change.tables.build()
    assert shop.dump("campaign") == before
    change.tables.create_triggers()
    change.copy()
    change.swap.make_ready()

    change.swap.swap(lambda: None)
    change.swap.finish()
    change.swap.cleanup()

    found = shop.dump(*tables), shop.definition()
    shop.drop()
    shop.state = type(shop.state)()
    shop.migrate(*TABLES, *first, *operations)
    assert differences(found[1], shop.definition()) == []
    assert found[0] == shop.dump(*tables)


def test_the_triggers_are_the_only_change_of_the_old_table(shop):
    before = shop.definition()
    change = Change(shop, add("likes", models.IntegerField(default=7))).prepare()

    after = shop.definition()

    assert TableDefinition.from_json({**after.to_json(), "triggers": {}}) == before
    assert set(after.triggers) == set(change.tables.trigger_texts())
    assert after.triggers


def test_nothing_is_left_after_a_drop(shop):
    before = shop.definition(), shop.connection.introspection.table_names()
    change = Change(shop, add("likes", models.IntegerField(default=7))).prepare()
    assert change.tables.made()

    change.tables.drop()

    assert (shop.definition(), shop.connection.introspection.table_names()) == before
    assert change.tables.made() == []


@pytest.mark.parametrize("method", ["build", "create_triggers", "drop"])
def test_each_step_can_be_repeated(shop, method):
    change = Change(shop, add("likes", models.IntegerField(default=7))).prepare()

    getattr(change.tables, method)()
    before = change.tables.made()
    getattr(change.tables, method)()

    assert change.tables.made() == before


def test_a_changed_trigger_is_found(shop):
    change = Change(shop, add("likes", models.IntegerField(default=7))).prepare()
    before = change.tables.trigger_texts()

    if shop.is_postgresql:
        shop.execute(f"ALTER TABLE campaign DISABLE TRIGGER {change.tables.names.trigger}_rows")
    else:
        name = change.tables.names.triggers["del"]
        shop.execute(f"DROP TRIGGER `{name}`")
        shop.execute(f"CREATE TRIGGER `{name}` AFTER DELETE ON campaign FOR EACH ROW SET @x = 1")

    assert change.tables.trigger_texts() != before
    assert set(change.tables.trigger_texts()) == set(before)


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_table_with_a_long_name_can_be_changed(shop):
    name = "shop_".ljust(58, "c")  # on MySQL, the name of a check is longer
    shop.migrate(migrations.AlterModelTable("campaign", name))
    change = Change(shop, add("count", models.PositiveIntegerField(default=7))).prepare()
    change.swap.make_ready()

    change.swap.swap(lambda: None)
    change.swap.cleanup()

    assert "count" in shop.definition(name).columns
    assert shop.catalog.orphans() == []


class OfAnotherTable(migrations.AddField):
    """An operation that alters a second table, as an operation of the project's own might."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        schema_editor.execute("ALTER TABLE shop_note ADD COLUMN extra integer")


def test_an_operation_that_alters_another_table_is_refused(shop):
    change = Change(shop, OfAnotherTable("campaign", "likes", models.IntegerField(null=True)))
    before = shop.definition("shop_note")

    with pytest.raises(Refused, match=r"The operations would change .*shop_note") as raised:
        change.tables.build()

    assert raised.value.code == "online.other_table"
    assert shop.definition("shop_note") == before


def test_keys_continue_where_the_old_table_s_end(shop):
    shop.fill(3)
    shop.objects().order_by("-pk").first().delete()
    change = Change(shop, alter("id", models.BigAutoField(primary_key=True)))

    change.tables.build()

    if shop.is_postgresql:
        ((kind,),) = shop.execute(
            "SELECT format_type(seqtypid, NULL) FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence(%s, "
            "'id')::regclass",
            [change.shadow],
        )
        assert kind == "bigint"
        return
    ((definition,),) = [row[1:] for row in shop.execute(f"SHOW CREATE TABLE {change.shadow}")]
    assert "AUTO_INCREMENT=4" in definition


ON_POSTGRESQL = pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
"""`CREATE TABLE LIKE` keeps everything on MariaDB, which has no sequences of columns."""


@ON_POSTGRESQL
def test_what_a_copy_of_a_table_leaves_out_is_carried_over(shop):
    shop.execute("DROP ROLE IF EXISTS massmigration_tests_reader")
    shop.execute("CREATE ROLE massmigration_tests_reader")
    try:
        shop.execute("GRANT SELECT ON campaign TO massmigration_tests_reader WITH GRANT OPTION")
        shop.execute("GRANT UPDATE ON campaign TO PUBLIC")
        shop.execute("GRANT USAGE ON SEQUENCE campaign_id_seq TO massmigration_tests_reader")
        shop.execute("COMMENT ON TABLE campaign IS '100 % ''ours'''")
        shop.execute("COMMENT ON COLUMN campaign.name IS 'a name'")
        shop.execute("ALTER TABLE campaign SET (fillfactor = 70)")
        shop.execute("ALTER TABLE campaign ALTER COLUMN name SET STATISTICS 500")
        change = Change(shop, add("likes", models.IntegerField(default=7)))

        change.tables.build()

        sql = (
            "SELECT relacl::text, reloptions::text, obj_description(oid, 'pg_class'), relowner, (SELECT "
            "attstattarget FROM"
            " pg_attribute WHERE attrelid = pg_class.oid AND attname = 'name') FROM pg_class WHERE oid = %s::regclass"
        )
        assert shop.execute(sql, [change.shadow]) == shop.execute(sql, ["campaign"])
        assert shadow_of(shop, change).columns["name"].comment == "a name"
        sequence = "SELECT relacl::text FROM pg_class WHERE oid = pg_get_serial_sequence(%s, 'id')::regclass"
        assert shop.execute(sequence, [change.shadow]) == shop.execute(sequence, ["campaign"])
    finally:
        shop.execute("DROP OWNED BY massmigration_tests_reader")
        shop.execute("DROP ROLE massmigration_tests_reader")


@ON_POSTGRESQL
def test_privileges_that_new_tables_have_by_default_are_revoked(shop):
    shop.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    try:
        change = Change(shop, add("likes", models.IntegerField(default=7)))
        change.tables.build()
        ((privileges,),) = shop.execute("SELECT relacl::text FROM pg_class WHERE oid = %s::regclass", [change.shadow])
    finally:
        shop.execute("ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC")

    assert not [each for each in privileges.strip("{}").split(",") if each.startswith("=")]


@ON_POSTGRESQL
def test_the_new_table_has_the_owner_of_the_old_one_whoever_builds_it(shop):
    owner, member = (f"massmigration_{kind}_{os.getpid()}" for kind in ("owner", "member"))
    ((database, me),) = shop.execute("SELECT current_database(), current_user")
    shop.execute(f"CREATE ROLE {owner}")
    shop.execute(f"CREATE ROLE {member} IN ROLE {owner}")
    try:
        shop.execute(f'GRANT CREATE ON DATABASE "{database}" TO {member}')
        shop.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}")
        for table in ("campaign", "shop_note", "shop_account"):
            shop.execute(f"ALTER TABLE {table} OWNER TO {owner}")
        change = Change(shop, add("likes", models.IntegerField(default=7)))
        shop.execute(f"SET ROLE {member}")
        assert shop.catalog.refusals("campaign") == []
        change.prepare()
        shop.fill(2)
        change.swap.swap(lambda: None)
        change.swap.finish()
        change.swap.cleanup()
        found = shop.execute("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'campaign'::regclass")
    finally:
        shop.execute("RESET ROLE")
        shop.execute(f"REASSIGN OWNED BY {owner}, {member} TO {me}")
        shop.execute(f"DROP OWNED BY {owner}, {member}")
        shop.execute(f"DROP ROLE {member}, {owner}")

    assert found == [(owner,)]


@ON_POSTGRESQL
def test_a_serial_column_of_an_old_django_gets_a_sequence_of_its_own(shop):
    shop.execute("ALTER TABLE campaign ALTER COLUMN id DROP IDENTITY")
    shop.execute(
        "CREATE SEQUENCE campaign_id_seq AS integer INCREMENT 5 MAXVALUE 900 CACHE 3 CYCLE OWNED BY campaign.id"
    )
    shop.execute("ALTER TABLE campaign ALTER COLUMN id SET DEFAULT nextval('campaign_id_seq')")
    change = Change(shop, add("likes", models.IntegerField(default=7)))

    change.tables.build()

    ((found,),) = shop.execute("SELECT pg_get_serial_sequence(%s, 'id')", [change.shadow])
    assert found == f"{change.tables.names.shadow_schema}.campaign_id_seq"
    options = "SELECT (s).* FROM (SELECT s FROM pg_sequence s WHERE seqrelid = %s::regclass) x"
    assert shop.execute(options, [found])[0][1:] == shop.execute(options, ["campaign_id_seq"])[0][1:]
    assert shadow_of(shop, change).columns["id"] == shop.definition().columns["id"]
