import datetime as dt

import pytest
from django.db import DatabaseError, IntegrityError, connections, migrations, models

from massmigration_schema.exceptions import ConflictsLeft, LockNotGranted, Refused
from massmigration_schema.locks import LockLimits
from testsupport.shop import Change, Reader
from testsupport.threads import PATIENCE, in_thread

LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
RENAME = migrations.RenameField("campaign", "description", "about")
DIGITS = migrations.AlterField("campaign", "budget", models.DecimalField(max_digits=14, decimal_places=3))
UNIQUE = migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))

IMPATIENT = LockLimits(patience=dt.timedelta(milliseconds=1))


@pytest.fixture
def filled(shop):
    """Three campaigns with an account, and a note of each."""
    account = shop.objects("Account").create(name="a")
    shop.fill(3)
    shop.objects().update(account_id=account.pk)
    for campaign in shop.objects().all():
        shop.objects("Note").create(campaign_id=campaign.pk, text="n")
    return shop


def prepared(shop, *operations):
    change = Change(shop, *operations).prepare()
    change.copy()
    change.swap.make_ready()
    return change


def swap(change):
    recorded = []
    change.swap.swap(lambda: recorded.append(1))
    change.swap.finish()
    assert recorded == [1]


def test_rows_keys_and_children_are_in_place(filled):
    change = prepared(filled, LIKES, RENAME)

    swap(change)

    filled.execute(
        "INSERT INTO campaign (name, objective, about, budget, data, likes) VALUES ('x', 'o', 'd', 1, '{}', 2)"
    )
    rows = filled.execute("SELECT id, about, likes FROM campaign ORDER BY id")
    assert [row[1:] for row in rows] == [("d", 7)] * 3 + [("d", 2)]
    assert [row[0] for row in rows] == list(range(rows[0][0], rows[0][0] + 4))
    with pytest.raises(IntegrityError):
        filled.execute("INSERT INTO shop_note (campaign_id, text) VALUES (123456, 'orphan')")
    filled.execute("INSERT INTO shop_note (campaign_id, text) VALUES (%s, 'child')", [rows[-1][0]])
    with pytest.raises(IntegrityError):
        filled.execute("DELETE FROM campaign")


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_key_with_children_becomes_bigger_on_postgresql(filled):
    change = prepared(filled, migrations.AlterField("campaign", "id", models.BigAutoField(primary_key=True)))
    key = 3_000_000_001

    swap(change)

    filled.execute("SELECT setval(pg_get_serial_sequence('campaign', 'id'), %s)", [key - 1])
    filled.execute("INSERT INTO campaign (name, objective, description, budget, data) VALUES ('x', 'o', 'd', 1, '{}')")
    assert filled.execute("SELECT max(id) FROM campaign") == [(key,)]
    filled.execute("INSERT INTO shop_note (campaign_id, text) SELECT min(id), 'child' FROM campaign")
    with pytest.raises(IntegrityError):
        filled.execute("INSERT INTO shop_note (campaign_id, text) VALUES (123456, 'orphan')")


def test_the_old_table_keeps_its_rows_until_the_cleanup(filled):
    change = prepared(filled, LIKES)
    swap(change)

    assert filled.execute(f"SELECT count(*) FROM {change.tables.names.old}") == [(3,)]
    change.swap.cleanup()

    assert change.tables.made() == []
    assert filled.catalog.orphans() == []


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_cleanup_does_not_drop_what_others_have_made(filled):
    change = prepared(filled, LIKES)
    swap(change)
    filled.execute("CREATE SCHEMA mm_test")
    filled.execute(f"CREATE VIEW mm_test.before AS SELECT id FROM {change.tables.names.old}")

    with pytest.raises(DatabaseError, match=r"view mm_test\.before depends on table"):
        change.swap.cleanup()

    assert filled.execute("SELECT count(*) FROM mm_test.before") == [(3,)]


def test_a_swap_is_refused_with_rows_in_the_log(filled):
    change = prepared(filled, UNIQUE)
    filled.execute("UPDATE campaign SET post = 'same'")
    before = filled.definition()

    with pytest.raises(
        ConflictsLeft, match=r"2 rows in the change log do not fit the new table .* Nothing was swapped\."
    ):
        change.swap.swap(lambda: None)

    assert filled.definition() == before
    assert not change.swap.is_swapped()
    filled.execute("UPDATE campaign SET post = 'other'")  # lenient triggers are back


def test_a_swap_without_the_lock_changes_nothing(filled):
    change = prepared(filled, LIKES)
    before = filled.definition(), filled.definition("shop_note"), change.tables.made()
    impatient = filled.dialect.swap(filled.db_alias, change.derivation, IMPATIENT)

    with Reader(filled.db_alias), pytest.raises(LockNotGranted, match="its lock was not granted"):
        impatient.swap(lambda: None)

    assert (filled.definition(), filled.definition("shop_note"), change.tables.made()) == before


@pytest.mark.parametrize("server_alias", ["mariadb"], indirect=True)
def test_triggers_that_are_strict_become_lenient_again_if_the_swap_is_given_up(filled):
    change = prepared(filled, UNIQUE)
    before = change.tables.trigger_texts()
    seen = []

    def refuse(execute, sql, params, many, context):
        if sql.startswith("RENAME TABLE"):
            seen.append(change.tables.strict_events())
            raise LockNotGranted("online.lock", "not granted")
        return execute(sql, params, many, context)

    with connections[filled.db_alias].execute_wrapper(refuse), pytest.raises(LockNotGranted):
        change.swap.swap(lambda: None)

    assert seen == [["upd", "ins"]]
    assert change.tables.trigger_texts() == before


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_there_is_no_moment_without_triggers(filled):
    change = prepared(filled, UNIQUE)
    before = change.tables.trigger_texts()
    missing = []

    def look(execute, sql, params, many, context):
        answer = execute(sql, params, many, context)
        if "TRIGGER" in sql:
            missing.append(before.keys() - filled.definition().triggers.keys())
        return answer

    with connections[filled.db_alias].execute_wrapper(look):
        change.tables.make_strict()
        change.tables.make_lenient()

    assert missing == [set()] * 4
    assert change.tables.trigger_texts() == before


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize("action", ["", "ON UPDATE CASCADE"])
def test_another_key_of_a_parent_deletes_no_child_in_the_middle_of_a_swap(filled, action):
    (foreign_key,) = filled.definition("shop_note").foreign_keys
    filled.execute(f"ALTER TABLE shop_note DROP FOREIGN KEY {foreign_key}")
    filled.execute(
        f"ALTER TABLE shop_note ADD CONSTRAINT {foreign_key} FOREIGN KEY (campaign_id) REFERENCES campaign (id) "
        f"ON DELETE CASCADE {action}"
    )
    key = filled.execute("SELECT min(id) FROM campaign")[0][0]
    change = prepared(filled, LIKES)
    errors = []

    def write(execute, sql, params, many, context):
        if sql.startswith("RENAME TABLE"):  # foreign keys of other tables refer to the new one
            move = in_thread(filled.execute, f"UPDATE campaign SET id = 700 WHERE id = {key}")
            errors.append(type(move.exception(PATIENCE)))
        return execute(sql, params, many, context)

    with connections[filled.db_alias].execute_wrapper(write):
        swap(change)

    assert errors == [type(None) if action else IntegrityError]
    assert sorted(filled.execute("SELECT campaign_id FROM shop_note")) == sorted(
        filled.execute("SELECT id FROM campaign")
    )
    assert filled.execute("SELECT count(*) FROM campaign WHERE id = 700") == [(1 if action else 0,)]


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_an_abort_in_the_middle_of_a_swap_leaves_nothing(filled):
    before = filled.definition()
    change = prepared(filled, UNIQUE)
    change.tables.make_strict()

    change.swap.abort()

    assert filled.definition() == before
    assert filled.catalog.orphans() == []


def test_an_abort_leaves_nothing(filled):
    before = filled.definition(), filled.definition("shop_note")
    change = prepared(filled, LIKES)

    change.swap.abort()

    assert (filled.definition(), filled.definition("shop_note")) == before
    assert change.tables.made() == []


@pytest.mark.parametrize("method", ["make_ready", "finish", "cleanup", "abort"])
def test_each_step_can_be_repeated(filled, method):
    change = prepared(filled, LIKES)
    if method in ("finish", "cleanup"):
        swap(change)

    getattr(change.swap, method)()
    before = change.tables.made(), filled.definition()
    getattr(change.swap, method)()

    assert (change.tables.made(), filled.definition()) == before


def test_a_repeated_swap_records_only(filled):
    change = prepared(filled, LIKES)
    swap(change)
    before = filled.definition()

    swap(change)

    assert filled.definition() == before


def test_a_child_that_refers_to_a_removed_column_is_refused(filled):
    filled.execute("ALTER TABLE campaign ADD CONSTRAINT campaign_post UNIQUE (post)")
    filled.execute(
        "CREATE TABLE shop_other (post varchar(128), CONSTRAINT by_post FOREIGN KEY (post) REFERENCES campaign (post))"
    )
    change = prepared(filled, migrations.RemoveField("campaign", "post"))

    with pytest.raises(Refused, match="by_post refers to"):
        change.swap.swap(lambda: None)

    assert not change.swap.is_swapped()


def test_orphans_are_found_and_dropped(filled):
    before = filled.definition()
    change = prepared(filled, LIKES)

    found = filled.catalog.orphans()

    assert {orphan.tag for orphan in found} == {change.plan.tag}
    assert {orphan.kind for orphan in found} >= {"trigger"}
    for orphan in found:
        filled.catalog.drop_orphan(orphan)
    assert filled.catalog.orphans() == []
    assert filled.definition() == before


def test_the_definition_lock_is_held_by_one_session(shop):
    from testsupport.threads import PATIENCE, in_thread

    lock = shop.dialect.lock(shop.db_alias)

    def other():
        with lock.definition_lock("0000ff") as is_taken:
            return is_taken

    with lock.definition_lock("0000ff") as is_taken:
        assert is_taken
        assert not in_thread(other).result(PATIENCE)
    assert in_thread(other).result(PATIENCE)


def test_the_server_has_an_identity(shop):
    first = shop.dialect.lock(shop.db_alias).server_id()

    shop.connection.close()

    assert shop.dialect.lock(shop.db_alias).server_id() == first != ""
