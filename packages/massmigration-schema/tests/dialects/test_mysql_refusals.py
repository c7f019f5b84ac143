import contextlib
import os

import pytest
from django.db import migrations, models

from massmigration_schema import guard
from massmigration_schema.dialects.mysql import is_like
from testsupport.shop import Change, check

LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
CHECK = migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0)))


def texts(shop, *operations):
    found = guard.refusals(shop.derive(*operations), shop.dialect, shop.db_alias)
    return {refusal.code: str(refusal) for refusal in found}


def test_a_check_that_stays_is_refused_where_its_name_cannot_exist_twice(shop):
    shop.migrate(CHECK)

    found = texts(shop, LIKES)

    if shop.db_alias != "mysql":
        assert found == {}
        return
    assert found == {
        "online.check": "Table 'campaign' has check constraints that the new table would have, too (positive). MySQL "
        "allows a name once in a database, and does not rename a check constraint without copying the table. Remove "
        "them in a migration before this one, which is instant, and add them again in this one."
    }


@pytest.mark.parametrize(
    "operations",
    [
        [migrations.RemoveConstraint("campaign", "positive")],
        [migrations.RemoveConstraint("campaign", "positive"), LIKES],
    ],
    ids=["alone", "with another operation"],
)
def test_a_check_that_is_removed_is_not_refused(shop, operations):
    shop.migrate(CHECK)

    assert texts(shop, *operations) == {}


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_the_name_of_a_check_of_another_table_is_refused(shop):
    shop.execute("CREATE TABLE shop_other (id integer, CONSTRAINT Positive CHECK (id > 0))")

    assert texts(shop, CHECK) == {
        "online.check": "Other tables have check constraints with names that the new table needs (Positive of "
        "shop_other), and MySQL allows a name once in a database. Clean up the earlier change, or choose other names."
    }


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_the_checks_of_the_new_table_itself_are_not_refused(shop):
    change = Change(shop, CHECK)
    change.tables.build()

    assert shop.catalog.refusals_of(change.derivation) == []


def test_a_check_without_a_name_is_not_refused(shop):
    shop.migrate(migrations.AddField("campaign", "count", models.PositiveIntegerField(default=7)))

    assert texts(shop, LIKES) == {}


VERSIONS = {
    "mariadb": ((10, 5, 29), "MariaDB 10.5.29; supported: 10.6"),
    "mysql": ((8, 0, 18), "MySQL 8.0.18; supported: 8.0.19"),
}


@pytest.mark.parametrize("server_alias", VERSIONS, indirect=True)
def test_an_old_server_is_refused(shop, monkeypatch):
    version, text = VERSIONS[shop.db_alias]
    monkeypatch.setitem(vars(shop.connection), "mysql_version", version)

    found = shop.catalog.refusals("campaign")

    assert [str(each) for each in found] == [f"The server is {text} or newer."]


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_several_primaries_of_a_group_are_refused(shop, monkeypatch):
    catalog, variable = shop.catalog, "group_replication_single_primary_mode"
    rows = catalog.rows
    monkeypatch.setattr(
        catalog, "rows", lambda sql, params=(): [(variable, "OFF")] if variable in sql else rows(sql, params)
    )

    found = catalog.refusals("campaign")

    (refusal,) = found
    assert str(refusal) == (
        "group_replication_single_primary_mode is OFF; allowed: ON. With several primaries, the lock of a table is "
        "that of one server only."
    )


@contextlib.contextmanager
def poor_user(shop, grants):
    """Use the database as a user with these privileges, which the user has by a role on MySQL."""
    # Users belong to the server, which other processes use.
    user, role = f"massmigration_user_{os.getpid()}", f"massmigration_role_{os.getpid()}"
    connection, before = shop.connection, dict(shop.connection.settings_dict)
    database = before["NAME"]
    shop.execute(f"CREATE USER {user}@'%' IDENTIFIED BY 'a-password'")
    try:
        receiver = f"{user}@'%'"
        if shop.db_alias == "mysql":
            shop.execute(f"CREATE ROLE {role}")
            shop.execute(f"GRANT {role} TO {receiver}")
            shop.execute(f"SET DEFAULT ROLE {role} TO {receiver}")
            receiver = role
        for privileges, place in grants:
            shop.execute(f"GRANT {privileges} ON {place.format(database=database)} TO {receiver}")
        connection.close()
        connection.settings_dict.update(USER=user, PASSWORD="a-password")
        yield
    finally:
        connection.close()
        connection.settings_dict.update(before)
        shop.execute(f"DROP USER {user}@'%'")
        if shop.db_alias == "mysql":
            shop.execute(f"DROP ROLE {role}")


MOST = "ALTER, CREATE, DELETE, DROP, INDEX, INSERT, SELECT, UPDATE"
LACKING = {
    "nothing but reading": (
        [("SELECT", "`{database}`.*")],
        "ALTER, CREATE, DELETE, DROP, INDEX, INSERT, TRIGGER, UPDATE",
    ),
    "no triggers": ([(MOST, "`{database}`.*")], "TRIGGER"),
    "triggers of another table": ([(MOST, "`{database}`.*"), ("TRIGGER", "`{database}`.shop_note")], "TRIGGER"),
    "triggers of another database": ([(MOST, "`{database}`.*"), ("TRIGGER", "`other`.*")], "TRIGGER"),
    "everything": ([(MOST, "`{database}`.*"), ("TRIGGER", "`{database}`.campaign")], ""),
    "all privileges": ([("ALL PRIVILEGES", "`{database}`.*")], ""),
}


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize(("grants", "lacking"), LACKING.values(), ids=LACKING)
def test_privileges_that_a_user_lacks_are_named(shop, grants, lacking):
    # MySQL has a binary log in the tests, and MariaDB has none.
    listed = [
        each for each in (lacking, "SUPER (or log_bin_trust_function_creators = 1)" if has_log(shop) else "") if each
    ]

    with poor_user(shop, grants):
        found = shop.catalog.refusals("campaign")

    assert [str(each) for each in found] == [
        f"The database user lacks {', '.join(listed)}. Grant it, and try again." for _ in listed[:1]
    ]


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        ("*", True),
        ("shop_1", True),
        ("shop\\_1", True),
        ("shop%", True),
        ("sh_p_1", True),
        ("shop", False),
        ("shop\\%", False),
    ],
)
def test_a_privilege_means_the_databases_of_a_pattern(pattern, is_meant):
    assert is_like("shop_1", pattern) is is_meant


def has_log(shop):
    ((value,),) = shop.execute("SELECT @@log_bin")
    return bool(value)
