import dataclasses
import datetime as dt
import threading
import time

import pytest
from django.db import IntegrityError, migrations, models
from django.db.migrations.recorder import MigrationRecorder

from massmigration import api
from massmigration.definitions.stages import StageContext
from massmigration.exceptions import ActionRefused
from massmigration.states import Status
from massmigration_schema import ledger
from massmigration_schema.change import SchemaChange
from massmigration_schema.exceptions import ConflictsLeft, LockNotGranted, Refused
from testsupport.shop import Journal, Reader
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE, in_threads

LIKES_NULL = migrations.AddField("campaign", "likes", models.IntegerField(null=True))
LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
ABOUT = migrations.RenameField("campaign", "description", "about")
LONGER = migrations.AlterField("campaign", "post", models.CharField(max_length=300, null=True))
BOTH = {"reverse_sync": True, "cutover": "auto"}


@pytest.fixture
def filled(shop):
    """Three campaigns, and a note of each."""
    shop.fill(3)
    for campaign in shop.objects().all():
        shop.objects("Note").create(campaign_id=campaign.pk, text="n")
    return shop


def revert(change, shop):
    return change.revert(shop.db_alias, "code:test")


def rows(shop, columns):
    return sorted(shop.execute(f"SELECT {columns} FROM campaign"))


def insert(shop, **values):
    given = {"name": "new", "objective": "o", "budget": 1, "data": "{}", **values}
    names, marks = ", ".join(given), ", ".join(["%s"] * len(given))
    shop.execute(f"INSERT INTO campaign ({names}) VALUES ({marks})", list(given.values()))


def test_a_revert_loses_no_write(filled, start):
    before = filled.definition(), filled.definition("shop_note")
    change, applied = start(LIKES, ABOUT, **BOTH)
    assert applied.status is Status.APPLIED
    ((key,),) = filled.execute("SELECT id FROM campaign WHERE name = 'name 0'")
    filled.execute("DELETE FROM shop_note WHERE campaign_id = %s", [key])
    insert(filled, about="inserted", likes=1)
    filled.execute("UPDATE campaign SET about = 'updated', likes = 9 WHERE name = 'name 1'")
    filled.execute("UPDATE campaign SET id = 500, about = 'moved' WHERE name = 'name 0'")
    filled.execute("DELETE FROM shop_note")
    filled.execute("DELETE FROM campaign WHERE name = 'name 2'")

    revert(change, filled)

    assert rows(filled, "name, description") == [("name 0", "moved"), ("name 1", "updated"), ("new", "inserted")]
    assert filled.execute("SELECT name FROM campaign WHERE id = 500") == [("name 0",)]
    assert (filled.definition(), filled.definition("shop_note")) == before
    assert ("shop", "0002_change") not in MigrationRecorder(filled.connection).applied_migrations()


def test_keys_and_children_go_back(filled, start):
    change, _ = start(LIKES, **BOTH)
    insert(filled, description="d", likes=1)
    filled.execute("DELETE FROM campaign WHERE name = 'new'")

    revert(change, filled)

    ((largest,),) = filled.execute("SELECT max(id) FROM campaign")
    insert(filled, description="d")
    assert filled.execute("SELECT id FROM campaign WHERE name = 'new'") == [(largest + 2,)]
    with pytest.raises(IntegrityError):
        filled.execute("INSERT INTO shop_note (campaign_id, text) VALUES (123456, 'orphan')")
    with pytest.raises(IntegrityError):
        filled.execute("DELETE FROM campaign WHERE name = 'name 1'")


def test_rows_keep_what_the_new_table_lacks(filled, start):
    filled.execute("UPDATE campaign SET description = 'kept'")
    change, _ = start(migrations.RemoveField("campaign", "description"), **BOTH)
    filled.execute("UPDATE campaign SET objective = 'changed' WHERE name = 'name 1'")
    filled.execute("DELETE FROM shop_note")
    filled.execute("UPDATE campaign SET id = 500 WHERE name = 'name 2'")
    insert(filled)

    revert(change, filled)

    assert rows(filled, "name, description, objective") == [
        ("name 0", "kept", "o"),
        ("name 1", "kept", "changed"),
        ("name 2", "kept", "o"),
        ("new", "", "o"),
    ]


def test_values_are_converted_back(filled, start):
    change, _ = start(migrations.AlterField("campaign", "post", models.IntegerField(null=True)), **BOTH)
    filled.execute("UPDATE campaign SET post = 12 WHERE name = 'name 1'")

    revert(change, filled)

    assert rows(filled, "name, post") == [("name 0", None), ("name 1", "12"), ("name 2", None)]


def test_a_row_that_does_not_fit_the_old_table_stops_the_revert_until_it_is_corrected(filled, start):
    change, _ = start(LONGER, **BOTH)
    filled.execute("UPDATE campaign SET post = %s WHERE name = 'name 1'", ["x" * 200])
    insert(filled, description="d", post="y" * 200)

    with pytest.raises(ConflictsLeft, match="2 rows do not fit the old table: "):
        revert(change, filled)

    assert "character varying(300)" in str(filled.definition()) or "varchar(300)" in str(filled.definition())
    filled.execute("UPDATE campaign SET post = 'short' WHERE post IS NOT NULL")
    revert(change, filled)
    assert rows(filled, "name, post") == [
        ("name 0", None),
        ("name 1", "short"),
        ("name 2", None),
        ("new", "short"),
    ]


def test_a_row_that_did_not_fit_can_be_moved_and_deleted(filled, start):
    filled.execute("DELETE FROM shop_note")
    change, _ = start(LONGER, **BOTH)
    filled.execute("UPDATE campaign SET post = %s, id = id + 500 WHERE name IN ('name 1', 'name 2')", ["x" * 200])
    filled.execute("UPDATE campaign SET post = 'short', id = id + 500 WHERE name = 'name 1'")
    filled.execute("DELETE FROM campaign WHERE name = 'name 2'")

    revert(change, filled)

    assert rows(filled, "name, post") == [("name 0", None), ("name 1", "short")]


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_truncate_goes_back(filled, start):
    change, _ = start(LIKES, **BOTH)
    filled.execute("TRUNCATE campaign CASCADE")

    revert(change, filled)

    assert rows(filled, "id") == []


def test_a_removed_column_without_a_value_for_new_rows_is_refused(shop):
    found = shop.derive(migrations.RemoveField("campaign", "budget"), reverse_sync=True)

    assert [each.code for each in found.refusals] == ["online.revert"]
    assert str(found.refusals[0]) == (
        "budget is removed, and is NOT NULL without a default: with reverse_sync, new rows would have no value for it "
        "in the old table. Make it nullable first, or do without reverse_sync."
    )
    assert shop.derive(migrations.RemoveField("campaign", "budget")).refusals == []


def refused(change, shop):
    with pytest.raises(Refused) as raised:
        revert(change, shop)
    return raised.value.code, str(raised.value)


def test_a_change_without_reverse_sync_cannot_be_reverted(filled, start):
    change, _ = start(LIKES, cutover="auto")

    assert refused(change, filled) == (
        "online.revert",
        "shop.0002_change cannot be reverted: it has no Online(reverse_sync=True).",
    )
    assert "likes" in filled.definition().columns


def test_a_change_that_has_not_swapped_cannot_be_reverted(filled, start):
    change, _ = start(LIKES, reverse_sync=True)

    assert refused(change, filled) == (
        "online.revert",
        "shop:0002_change.schema has not swapped the tables, so there is nothing to revert.",
    )


def test_a_change_that_was_cleaned_up_cannot_be_reverted(filled, start):
    change, _ = start(LIKES, **BOTH)
    change.clean_up(filled.db_alias, "code:test")

    assert refused(change, filled) == (
        "online.revert",
        "shop:0002_change.schema has been cleaned up, so there is nothing to revert.",
    )
    assert filled.catalog.orphans() == []
    assert filled.definition().triggers == {}


def test_missing_triggers_stop_the_revert(filled, start):
    change, _ = start(LIKES, **BOTH)
    name = next(iter(change.back(filled.db_alias).tables.trigger_texts()))
    filled.execute(f"DROP TRIGGER {name} ON campaign" if filled.is_postgresql else f"DROP TRIGGER `{name}`")

    code, text = refused(change, filled)

    assert (code, "It cannot be put back." in text) == ("online.triggers", True)
    assert "likes" in filled.definition().columns


def test_an_option_that_came_after_the_swap_does_not_make_a_revert_possible(filled, start):
    start(LIKES, cutover="auto")
    late = SchemaChange(ShopFile(filled.migration(LIKES, reverse_sync=True), filled.state.clone()))

    assert refused(late, filled)[0] == "online.triggers"


def test_a_cleanup_after_a_revert_leaves_what_was_there_before(filled, start):
    before = filled.definition(), filled.definition("shop_note")
    change, _ = start(LIKES, keep_old=dt.timedelta(days=9), **BOTH)
    api.perform_action("revert", change.key, filled.db_alias)
    with pytest.raises(ActionRefused, match="was reverted, and its new table is still there"):
        api.launch(change.key, filled.db_alias)

    change.clean_up(filled.db_alias, "code:test")

    assert (filled.definition(), filled.definition("shop_note")) == before
    assert filled.catalog.orphans() == []
    assert ledger.get(filled.db_alias, change.key) is None
    assert api.status(change.key, filled.db_alias) is None
    api.launch(change.key, filled.db_alias)
    assert start.wait(change).status is Status.APPLIED


def test_a_reverted_change_cannot_be_aborted(filled, start):
    change, _ = start(LIKES, **BOTH)
    revert(change, filled)

    with pytest.raises(Refused, match="Clean it up instead"):
        change.abort(filled.db_alias, "code:test")


def test_the_actions_and_details_of_a_change_that_can_be_reverted(filled, start):
    change, _ = start(LIKES, **BOTH)
    found = [each.name for each in change.get_actions(filled.db_alias, Status.APPLIED)]

    revert(change, filled)

    assert found == ["revert"]
    (action,) = change.get_actions(filled.db_alias, None)
    assert (action.name, action.description.split(".")[0]) == ("cleanup", "Drops the new table and the logs")
    assert "Reverted" in [detail.label for detail in change.get_details(filled.db_alias)]


@pytest.mark.parametrize("options", [{}, {"reverse_sync": True}], ids=str)
def test_the_old_table_keeps_no_row_of_another_table_from_going(filled, start, options):
    account = filled.objects("Account").create(name="a")
    filled.objects().update(account_id=account.pk)
    change, _ = start(LIKES, cutover="auto", **options)

    filled.execute("UPDATE campaign SET account_id = NULL")
    filled.execute("DELETE FROM shop_account")

    assert filled.execute("SELECT count(*) FROM shop_account") == [(0,)]
    if options:
        revert(change, filled)
        account = filled.objects("Account").create(name="b")
        filled.objects().update(account_id=account.pk)
        filled.execute("UPDATE campaign SET account_id = NULL")
        filled.execute("DELETE FROM shop_account")


def test_a_table_that_can_be_reverted_has_no_other_change(filled, start):
    change, _ = start(LIKES, **BOTH)

    assert ledger.busy_with(filled.db_alias, "campaign") == change.key
    change.clean_up(filled.db_alias, "code:test")

    assert ledger.busy_with(filled.db_alias, "campaign") is None


@pytest.mark.parametrize("verb", ["cutover", "revert"])
@pytest.mark.parametrize("table", ["campaign", "shop_note"])
def test_a_swap_without_the_lock_changes_nothing_in_either_direction(filled, start, verb, table):
    change, _ = start(LIKES, reverse_sync=True)
    if verb == "revert":
        swapped(change, filled, "cutover")
    before = everything(change, filled)
    patient = change.online

    change.online = dataclasses.replace(patient, lock_patience=dt.timedelta(milliseconds=1))
    with Reader(filled.db_alias, table), pytest.raises(LockNotGranted):
        swapped(change, filled, verb)

    assert everything(change, filled) == before
    change.online = patient
    filled.execute("UPDATE campaign SET description = 'written'")
    swapped(change, filled, verb)
    assert rows(filled, "DISTINCT description") == [("written",)]


def everything(change, shop):
    """Return the definitions, and the names of what the change has made."""
    made = [*change.swap(shop.db_alias).tables.made(), *change.back(shop.db_alias).tables.made()]
    return shop.definition(), shop.definition("shop_note"), sorted(made)


def swapped(change, shop, verb):
    if verb == "revert":
        revert(change, shop)
    else:
        change._cut_over(shop.db_alias, StageContext(key=change.key, db_alias=shop.db_alias, attempt_id="", stage=0))


@pytest.mark.slow
def test_no_write_is_lost_around_a_cutover_and_a_revert(shop, start):
    count, writers = 400, 4
    shop.fill_many(count)
    post = migrations.AlterField("campaign", "post", models.CharField(max_length=300, null=True))
    change, _ = start(LIKES_NULL, post, reverse_sync=True)
    journals = [Journal(shop, number, writers, seed=7, pause=0.005) for number in range(writers)]
    stop = threading.Event()

    def swap_twice():
        try:
            wait_for_writes(journals, 100)
            swapped(change, shop, "cutover")
            wait_for_writes(journals, 300)
            revert(change, shop)
            wait_for_writes(journals, 100)
        finally:
            stop.set()

    keys = list(range(1, count + 1))
    in_threads([swap_twice, *(lambda each=each: each.run(stop, keys) for each in journals)], patience=PATIENCE)

    expected = {key: value for each in journals for key, value in each.rows.items() if value is not None}
    errors = [error for each in journals for error in each.errors]
    if shop.db_alias == "mysql":
        # When a swap alters a foreign key, the server may choose a writer as the victim of a deadlock.
        errors = [error for error in errors if not error.startswith("(1213, ")]
    assert errors == []
    assert dict(shop.execute("SELECT id, description FROM campaign")) == expected
    assert "likes" not in shop.definition().columns


def wait_for_writes(journals, count):
    """Wait until the writers have written so many keys in addition."""
    before, until = sum(len(each.rows) for each in journals), time.monotonic() + PATIENCE
    while sum(len(each.rows) for each in journals) < before + count:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_cleanup_does_not_wait_long_for_the_triggers_of_the_way_back(filled, start):
    change, _ = start(LIKES, **BOTH)
    before = everything(change, filled)
    patient = change.online

    change.online = dataclasses.replace(patient, lock_patience=dt.timedelta(milliseconds=1))
    with Reader(filled.db_alias), pytest.raises(LockNotGranted):
        change.clean_up(filled.db_alias, "code:test")

    assert everything(change, filled) == before
    change.online = patient
    change.clean_up(filled.db_alias, "code:test")
    assert filled.catalog.orphans() == []
