import os

import pytest
from django.db import migrations, models

from massmigration_schema import guard
from massmigration_schema.dialects import mysql_catalog
from massmigration_schema.exceptions import RefusedForReasons
from testsupport.shop import Change, executed

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
        "Table 'campaign' has row-level security or policies, which an online change does not support yet.",
    ),
    "online.row_security: a policy": (
        ["CREATE POLICY everything ON campaign USING (true)"],
        "Table 'campaign' has row-level security or policies, which an online change does not support yet.",
    ),
    "online.dependents": (
        ["CREATE SCHEMA mm_test", "CREATE VIEW mm_test.names AS SELECT name FROM campaign"],
        "Table 'campaign' is used by mm_test.names, which an online change does not support yet.",
    ),
    "online.dependents: a materialized view": (
        ["CREATE SCHEMA mm_test", "CREATE MATERIALIZED VIEW mm_test.names AS SELECT name FROM campaign"],
        "Table 'campaign' is used by mm_test.names, which an online change does not support yet.",
    ),
    "online.dependents: a function": (
        [
            "CREATE SCHEMA mm_test",
            "CREATE FUNCTION mm_test.total(campaign) RETURNS numeric LANGUAGE sql AS 'SELECT $1.budget'",
        ],
        "Table 'campaign' is used by function mm_test.total(campaign), which an online change does not support yet.",
    ),
    "online.dependents: a column of its type": (
        ["CREATE TABLE shop_other (campaigns campaign[])"],
        (
            "Table 'campaign' is used by column campaigns of table shop_other, which an online change does not support "
            "yet."
        ),
    ),
    "online.dependents: a rule": (
        ["CREATE RULE nothing AS ON DELETE TO campaign DO INSTEAD NOTHING"],
        "Table 'campaign' is used by its rule nothing, which an online change does not support yet.",
    ),
    "online.dependents: a publication": (
        ["CREATE PUBLICATION massmigration_tests FOR TABLE campaign"],
        "Table 'campaign' is used by publication massmigration_tests, which an online change does not support yet.",
    ),
    "online.dependents: a publication of all": (
        ["CREATE PUBLICATION massmigration_tests FOR ALL TABLES"],
        "Table 'campaign' is used by publication massmigration_tests, which an online change does not support yet.",
    ),
    "online.dependents: a subscription": (
        ["INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, 'campaign'::regclass, 'r')"],
        "Table 'campaign' is used by a subscription, which an online change does not support yet.",
    ),
    "online.dependents: its sequence elsewhere": (
        ["CREATE TABLE shop_other (id integer DEFAULT nextval('campaign_id_seq'))"],
        (
            "Table 'campaign' is used by default value for column id of table shop_other, which an online change does "
            "not support yet."
        ),
    ),
    "online.foreign_keys": (
        [
            "ALTER TABLE campaign DROP CONSTRAINT {own}",
            (
                "ALTER TABLE campaign ADD CONSTRAINT {own} FOREIGN KEY (account_id) REFERENCES shop_account (id) "
                "ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"
            ),
        ],
        (
            "Table 'campaign' has foreign keys with an action, or that are not deferred ({own}), which an online "
            "change does not support yet."
        ),
    ),
    "online.foreign_keys: on update": (
        [
            "ALTER TABLE campaign DROP CONSTRAINT {own}",
            (
                "ALTER TABLE campaign ADD CONSTRAINT {own} FOREIGN KEY (account_id) REFERENCES shop_account (id) "
                "ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED"
            ),
        ],
        (
            "Table 'campaign' has foreign keys with an action, or that are not deferred ({own}), which an online "
            "change does not support yet."
        ),
    ),
    "online.foreign_keys: at once": (
        [
            "ALTER TABLE campaign DROP CONSTRAINT {own}",
            "ALTER TABLE campaign ADD CONSTRAINT {own} FOREIGN KEY (account_id) REFERENCES shop_account (id)",
        ],
        (
            "Table 'campaign' has foreign keys with an action, or that are not deferred ({own}), which an online "
            "change does not support yet."
        ),
    ),
    **{
        f"online.properties: {what}": (
            statements,
            f"Table 'campaign' has what a copy would lose ({what}), which an online change does not support yet.",
        )
        for what, statements in {
            "storage parameters of TOAST": ["ALTER TABLE campaign SET (toast.autovacuum_enabled = off)"],
            "the access method heap": [
                "CREATE ACCESS METHOD massmigration_tests TYPE TABLE HANDLER heap_tableam_handler",
                "SET default_table_access_method = massmigration_tests",
            ],
            "options of the column name": ["ALTER TABLE campaign ALTER COLUMN name SET (n_distinct = 5)"],
            "the statistics pair": ["CREATE STATISTICS pair ON name, objective FROM campaign"],
            "CLUSTER ON campaign_start": ["ALTER TABLE campaign CLUSTER ON campaign_start"],
            "the tablespace of campaign_start": [
                (
                    "UPDATE pg_class SET reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_global') "
                    "WHERE relname = 'campaign_start'"
                )
            ],
            "storage parameters of campaign_name": ["ALTER INDEX campaign_name SET (fillfactor = 70)"],
            "statistics targets of by_length": [
                "CREATE INDEX by_length ON campaign (length(name))",
                "ALTER INDEX by_length ALTER COLUMN 1 SET STATISTICS 500",
            ],
            "the comment of campaign_start": ["COMMENT ON INDEX campaign_start IS 'by start'"],
            "the comment of {own}": ["COMMENT ON CONSTRAINT {own} ON campaign IS 'who pays'"],
            "the comment of {child}": ["COMMENT ON CONSTRAINT {child} ON shop_note IS 'of what'"],
        }.items()
    },
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
        [
            "ALTER TABLE campaign ADD COLUMN parent integer NULL",
            "ALTER TABLE campaign ADD CONSTRAINT itself FOREIGN KEY (parent) REFERENCES campaign (id)",
        ],
        "Table 'campaign' refers to itself (itself), which an online change does not support yet.",
    ),
    "online.foreign_keys": (
        [
            "ALTER TABLE campaign DROP FOREIGN KEY {own}",
            (
                "ALTER TABLE campaign ADD CONSTRAINT {own} FOREIGN KEY (account_id) REFERENCES shop_account (id) "
                "ON DELETE CASCADE ON UPDATE SET NULL"
            ),
        ],
        (
            "Table 'campaign' has foreign keys with an action ({own}: ON DELETE CASCADE ON UPDATE SET NULL), which an "
            "online change does not support yet."
        ),
    ),
    "online.long_name": (
        [
            f"CREATE TABLE shop_other (id integer, CONSTRAINT {'long' * 16} FOREIGN KEY (id) REFERENCES campaign (id))",
        ],
        (
            f"Table 'campaign' has foreign keys with more than 61 characters ({'long' * 16}), which an online change "
            "does not support yet."
        ),
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


MYSQL = {
    **{case: MARIADB[case] for case in MARIADB if case not in ("online.engine", "online.versioned")},
    "online.engine": (
        [
            "DROP TABLE shop_note",
            "DROP TABLE campaign",
            "CREATE TABLE campaign (id int AUTO_INCREMENT PRIMARY KEY) ENGINE = MyISAM",
        ],
        "Table 'campaign' has the storage engine MyISAM, which an online change does not support yet.",
    ),
}
TABLES = {"postgresql": POSTGRESQL, "mariadb": MARIADB, "mysql": MYSQL}


@pytest.mark.parametrize(
    ("server_alias", "case"),
    [(alias, case) for alias, cases in TABLES.items() for case in cases],
    indirect=["server_alias"],
)
def test_a_table_that_cannot_be_copied_is_refused_and_nothing_is_left(shop, start, restored, case):
    statements, text = TABLES[shop.db_alias][case]
    names = {
        "own": next(iter(shop.definition().foreign_keys)),
        "child": next(iter(shop.definition().incoming)).rpartition(".")[2],
    }
    for sql in statements:
        shop.execute(sql.format(**names))
    before = shop.everything()

    with pytest.raises(RefusedForReasons) as raised:
        start(LIKES)

    assert (case.partition(":")[0], text.format(**names)) in [(each.code, str(each)) for each in raised.value.reasons]
    assert shop.everything() == before


@pytest.fixture
def restored(shop):
    """Restore what a test changes beside the tables."""
    yield
    if shop.is_postgresql:
        shop.execute("DROP PUBLICATION IF EXISTS massmigration_tests")
        shop.execute("DELETE FROM pg_subscription_rel WHERE srsubid = 1")
        shop.execute("RESET default_table_access_method")
        shop.execute("DROP ACCESS METHOD IF EXISTS massmigration_tests")
        # No server has a second tablespace that every process may use.
        shop.execute("UPDATE pg_class SET reltablespace = 0 WHERE relname = 'campaign_start'")
    else:
        shop.connection.close()  # it forgets the sql_mode of its session


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
        "requires the same type on both sides. Drop these foreign keys first, and enlarge their columns: see the "
        "recipe in the documentation, under common changes of large tables."
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


@pytest.fixture
def poor(shop, monkeypatch):
    """A user without privileges but to read, who does what the test does until its end."""
    name = f"massmigration_poor_{os.getpid()}"  # users belong to the server, which other processes use
    if shop.is_postgresql:
        shop.execute(f"CREATE ROLE {name}")
        shop.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        shop.execute(f"SET ROLE {name}")
        yield
        shop.execute("RESET ROLE")
        shop.execute(f"DROP OWNED BY {name}")
        shop.execute(f"DROP ROLE {name}")
        return
    ((database,),) = shop.execute("SELECT DATABASE()")
    shop.execute(f"CREATE USER {name} IDENTIFIED BY 'poor'")
    shop.execute(f"GRANT SELECT, INSERT ON `{database}`.* TO {name}")
    with monkeypatch.context() as patch:
        patch.setitem(shop.connection.settings_dict, "USER", name)
        patch.setitem(shop.connection.settings_dict, "PASSWORD", "poor")
        shop.connection.close()
        yield
    shop.connection.close()
    shop.execute(f"DROP USER {name}")


def test_missing_privileges_are_named_and_nothing_is_tried(shop, poor):
    before = shop.everything()

    found = refusals(shop, LIKES)

    assert shop.everything() == before
    listed = (
        "CREATE on the database, CREATE on the schema public, TRIGGER on the table, ownership of the table, "
        "REFERENCES on shop_account, ownership of shop_note"
        if shop.is_postgresql
        else "ALTER, CREATE, DELETE, DROP, INDEX, TRIGGER, UPDATE"
    )
    if shop.db_alias == "mysql":  # which has a binary log in the tests
        listed += ", SUPER (or log_bin_trust_function_creators = 1)"
    assert [str(each) for each in found] == [f"The database user lacks {listed}. Grant it, and try again."]


def settings(*, binlog_format="ROW", trusts="ON"):
    """Return a query whose answer is that of a server with these settings."""
    return (
        f"SELECT 'log_bin', 'ON' UNION SELECT 'binlog_format', '{binlog_format}' "
        f"UNION SELECT 'log_bin_trust_function_creators', '{trusts}' UNION SELECT 'sql_mode', 'STRICT_ALL_TABLES'"
    )


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_server_that_trusts_no_trigger_is_named(shop, poor, monkeypatch):
    monkeypatch.setattr(mysql_catalog, "SETTINGS", settings(trusts="OFF"))

    (found,) = shop.catalog.refusals("campaign")

    assert "TRIGGER, UPDATE, SUPER (or log_bin_trust_function_creators = 1). Grant it" in str(found)


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_log_of_statements_is_refused(shop, monkeypatch):
    monkeypatch.setattr(mysql_catalog, "SETTINGS", settings(binlog_format="STATEMENT"))

    assert texts(shop, LIKES) == {
        "online.binlog": "binlog_format is STATEMENT; allowed: ROW, MIXED. Statements skip locked rows."
    }


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize("place", ["FROM", "TO"])
def test_a_foreign_key_to_or_from_another_database_is_refused(shop, place):
    other = f"massmigration_other_{os.getpid()}"
    shop.execute(f"CREATE DATABASE {other}")
    try:
        ((own,),) = shop.execute("SELECT DATABASE()")
        if place == "FROM":
            shop.execute(
                f"CREATE TABLE {other}.child (id integer, CONSTRAINT far FOREIGN KEY (id) REFERENCES `{own}`.campaign "
                "(id))"
            )
            name = f"{other}.child.far"
        else:
            shop.execute(f"CREATE TABLE {other}.account (id integer PRIMARY KEY)")
            shop.execute(
                f"ALTER TABLE campaign ADD CONSTRAINT far FOREIGN KEY (account_id) REFERENCES {other}.account (id)"
            )
            name = f"{own}.campaign.far"

        assert texts(shop, LIKES)["online.dependents"] == (
            f"Table 'campaign' has foreign keys from or to another database ({name}), which an online change does not "
            "support yet."
        )
    finally:
        shop.execute("SET SESSION foreign_key_checks = 0")
        shop.execute(f"DROP DATABASE {other}")
        shop.execute("SET SESSION foreign_key_checks = 1")


def test_too_little_space_is_refused_where_the_server_tells(shop, monkeypatch):
    monkeypatch.setattr(type(shop.catalog), "free_bytes", lambda self: 2 * self.size("campaign") - 1)

    (text,) = texts(shop, LIKES).values()

    assert text.startswith("Table 'campaign' has ")
    assert text.endswith(" are free; required: twice the table. Free some space, and try again.")
    monkeypatch.setattr(type(shop.catalog), "free_bytes", lambda self: 2 * self.size("campaign"))
    assert texts(shop, LIKES) == {}


def test_the_size_of_a_table_is_known(shop):
    before = shop.catalog.size("campaign")
    shop.fill_many(5_000)
    shop.execute("ANALYZE campaign" if shop.is_postgresql else "ANALYZE TABLE campaign")

    assert shop.catalog.size("campaign") > before > 0


@pytest.mark.parametrize("server_alias", ["mariadb"], indirect=True)
def test_the_space_is_known_with_a_plugin(shop, monkeypatch):
    monkeypatch.setattr(mysql_catalog, "DISKS", "SELECT 12345")
    assert shop.catalog.free_bytes() == 12345
    monkeypatch.setattr(mysql_catalog, "DISKS", "SELECT 1 FROM information_schema.massmigration_tests")
    assert shop.catalog.free_bytes() is None


def test_a_name_that_is_taken_is_refused(shop):
    change = Change(shop, LIKES)
    change.tables.build()
    made = ", ".join(change.tables.made())

    assert texts(shop, LIKES) == {
        "online.name_taken": f"{made} exists already, and belongs to no change. See: manage.py onlinemigration orphans"
    }


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("ALTER TABLE campaign ADD COLUMN extra integer", "extra_column: extra is int"),
        (
            "ALTER TABLE campaign ADD CONSTRAINT extra FOREIGN KEY (id) REFERENCES shop_account (id)",
            "extra_foreign_key: extra is FOREIGN KEY",
        ),
    ],
)
def test_what_no_migration_has_made_and_a_copy_would_lose_is_refused(shop, sql, text):
    shop.execute(sql + (" DEFERRABLE INITIALLY DEFERRED" if shop.is_postgresql and "KEY" in sql else ""))

    found = texts(shop, LIKES)

    assert list(found) == ["online.drift"]
    assert text in found["online.drift"]
