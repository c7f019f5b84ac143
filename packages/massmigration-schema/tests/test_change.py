import datetime as dt
import time

import pytest
from django.db import IntegrityError, connections, migrations, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from massmigration import api, checks
from massmigration.definitions.stages import StageContext
from massmigration.exceptions import ActionRefused, NotNow
from massmigration.loader import store
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from massmigration_schema import ledger
from massmigration_schema.change import STAGES, SchemaChange
from massmigration_schema.exceptions import Refused, RefusedForReasons
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.shop import Change
from testsupport.shop_app import ShopFile
from testsupport.threads import PATIENCE, in_thread
from testsupport.worker_processes import wait_until

LIKES = migrations.AddField("campaign", "likes", models.IntegerField(default=7))
ABOUT = migrations.RenameField("campaign", "description", "about")
UNIQUE = migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))
SHORT = migrations.AlterField("campaign", "post", models.CharField(max_length=5, null=True))
COLUMNS = {"about": "description", "likes": "7", "name": "name", "budget": "budget"}


def proceed(start, change, shop):
    api.proceed(change.key, shop.db_alias)
    return start.wait(change)


def test_a_change_is_made_and_waits_for_the_swap(shop, start):
    shop.fill(50)
    before = dict(shop.execute("SELECT id, description FROM campaign"))

    change, waiting = start(LIKES, ABOUT)

    assert waiting.status is Status.WAITING
    assert Change(shop, LIKES, ABOUT).wrong(**COLUMNS) == []
    applied = proceed(start, change, shop)
    assert applied.status is Status.APPLIED
    assert dict(shop.execute("SELECT id, about FROM campaign")) == before
    assert ("shop", "0002_change") in MigrationRecorder(shop.connection).applied_migrations()
    assert ledger.require(shop.db_alias, change.key).is_swapped


def test_a_change_can_swap_by_itself(shop, start):
    shop.fill(5)

    _change, applied = start(LIKES, cutover="auto")

    assert applied.status is Status.APPLIED
    assert shop.execute("SELECT DISTINCT likes FROM campaign") == [(7,)]


def test_an_empty_table_can_be_changed(shop, start):
    _, applied = start(LIKES, cutover="auto")

    assert applied.status is Status.APPLIED
    assert "likes" in shop.definition().columns


def test_a_paused_change_keeps_its_triggers_and_is_resumed(shop, start):
    shop.fill(30)
    asked = []

    def throttle(batch):
        asked.append(batch.rows)
        if sum(asked) == 7:  # after the first batch
            api.pause("shop:0002_change.schema", shop.db_alias)

    change, paused = start(LIKES, max_batch_size=7, throttle=[throttle])
    first, *_, last = shop.objects().order_by("pk").values_list("pk", flat=True)

    assert (paused.status, sum(asked)) == (Status.PAUSED, 7)
    shop.execute("UPDATE campaign SET description = 'written' WHERE id IN (%s, %s)", [first, last])
    shop.execute("DELETE FROM campaign WHERE id = %s", [first + 1])
    assert shop.execute(f"SELECT description FROM {Change(shop, LIKES).shadow} WHERE id = {first}") == [("written",)]
    api.resume("shop:0002_change.schema", shop.db_alias)
    assert start.wait(change).status is Status.WAITING
    assert Change(shop, LIKES).wrong(description="description", name="name") == []


def test_writes_while_it_waits_are_in_the_new_table(shop, start):
    shop.fill(5)
    change, _ = start(LIKES, ABOUT)

    shop.execute("UPDATE campaign SET description = 'late'")
    shop.fill(2)
    proceed(start, change, shop)

    assert sorted(shop.execute("SELECT about, likes FROM campaign")) == [("d", 7)] * 2 + [("late", 7)] * 5


def test_a_row_that_does_not_fit_is_a_failed_object(shop, start):
    shop.fill(3)
    shop.execute("UPDATE campaign SET post = 'much too long' WHERE name = 'name 1'")
    ((key,),) = shop.execute("SELECT id FROM campaign WHERE name = 'name 1'")

    change, failed = start(SHORT)

    assert failed.status is Status.FAILED
    (found,) = FailedObject.objects.using(shop.db_alias).all()
    assert found.object_pk == [key]
    shop.execute("UPDATE campaign SET post = 'short' WHERE name = 'name 1'")
    api.retry(change.key, shop.db_alias)
    assert start.wait(change).status is Status.WAITING


def test_a_row_of_the_change_log_that_does_not_fit_is_named_by_its_own_key(shop, start):
    shop.fill(3)
    change, _ = start(UNIQUE)
    shop.execute("UPDATE campaign SET post = 'same'")
    entry = change._logged_rows(shop.db_alias).order_by("id").last()
    ((key,),) = shop.execute("SELECT MAX(id) FROM campaign")

    with pytest.raises(IntegrityError, match=rf"^row {key} of campaign: .*uplicate"), transaction.atomic(shop.db_alias):
        change._resync(entry, shop.db_alias)


def test_a_row_that_does_not_fit_later_stops_the_swap_until_it_is_corrected(shop, start):
    shop.fill(3)
    change, _ = start(UNIQUE)
    shop.execute("UPDATE campaign SET post = 'same'")

    failed = proceed(start, change, shop)

    assert failed.status is Status.FAILED
    assert "2 rows do not fit the new table" in failed.last_error
    shop.execute("UPDATE campaign SET post = NULL")
    api.retry(change.key, shop.db_alias)
    assert start.wait(change).status is Status.APPLIED


def test_rows_that_differ_are_found_and_repaired(shop, start, monkeypatch):
    shop.fill(20)
    damage(shop, monkeypatch, LIKES, "UPDATE {shadow} SET likes = 8 WHERE name IN ('name 3', 'name 4')")

    change, waiting = start(LIKES)

    assert waiting.status is Status.WAITING
    assert ledger.require(shop.db_alias, change.key).differences == 2
    assert shop.execute(f"SELECT DISTINCT likes FROM {Change(shop, LIKES).shadow}") == [(7,)]


def test_many_rows_that_differ_fail_the_change(shop, start, monkeypatch):
    shop.fill(20)
    damage(shop, monkeypatch, LIKES, "UPDATE {shadow} SET likes = 8")

    _change, failed = start(LIKES, max_differences=10)

    assert failed.status is Status.FAILED
    assert "Verification found 20 rows that differ; allowed: 10" in failed.last_error


def damage(shop, monkeypatch, operation, sql):
    """Damage the new table after the copy, as something that writes past the triggers."""
    shadow = Change(shop, operation).shadow
    real = SchemaChange._verify
    done = []

    def verify(self, queryset, db_alias, *, is_last):
        if not done:
            done.append(1)
            with connections[db_alias].cursor() as cursor:
                cursor.execute(sql.format(shadow=shadow))
        real(self, queryset, db_alias, is_last=is_last)

    monkeypatch.setattr(SchemaChange, "_verify", verify)


def drop_trigger(shop, change):
    (name, *_) = Change(shop, LIKES).tables.trigger_texts()
    shop.execute(f"DROP TRIGGER {name} ON campaign" if shop.is_postgresql else f"DROP TRIGGER `{name}`")


def use_by_a_view(shop, change):
    # On MariaDB, a view finds its tables by name.
    shop.execute("CREATE SCHEMA mm_test")
    shop.execute("CREATE VIEW mm_test.names AS SELECT name FROM campaign")


UNSOUND = {
    "triggers": (drop_trigger, "Triggers of the change are gone or were altered, so rows may have been missed."),
    "server": (
        lambda shop, change: ledger._update(shop.db_alias, change.key, server_id="another"),
        "The change began on the server another, and this is ",
    ),
    "verification": (
        lambda shop, change: ledger._update(
            shop.db_alias, change.key, verified_at=timezone.now() - dt.timedelta(days=1, seconds=1)
        ),
        r"allowed: within 1 day, 0:00:00\. Compare them: manage\.py onlinemigration verify shop 0002_change",
    ),
    "index": (
        lambda shop, change: shop.execute("CREATE INDEX late ON campaign (budget)"),
        "online.drift: Table 'campaign' was altered since the change began: extra_index: late is ",
    ),
    "column": (
        lambda shop, change: shop.execute("ALTER TABLE campaign ADD COLUMN late integer NULL"),
        "was altered since the change began: extra_column: late is ",
    ),
    "comment": (
        lambda shop, change: shop.execute(
            "COMMENT ON TABLE campaign IS 'late'" if shop.is_postgresql else "ALTER TABLE campaign COMMENT = 'late'"
        ),
        "was altered since the change began: option: comment is 'late'",
    ),
}
ON_POSTGRESQL = {
    "view": (use_by_a_view, r"online\.dependents: Table 'campaign' is used by mm_test\.names"),
    "privileges": (
        lambda shop, change: shop.execute("GRANT SELECT ON campaign TO PUBLIC"),
        "was altered since the change began: option: privileges is ",
    ),
}
CASES = [
    *((alias, case) for case in UNSOUND for alias in DATABASE_SERVERS),
    *(("postgresql", case) for case in ON_POSTGRESQL),
]


@pytest.mark.parametrize(("server_alias", "case"), CASES, indirect=["server_alias"])
def test_the_swap_is_refused_if_something_is_not_what_it_was(shop, start, case):
    shop.fill(3)
    change, _ = start(LIKES)
    happen, words = {**UNSOUND, **ON_POSTGRESQL}[case]

    happen(shop, change)

    with pytest.raises(Refused, match=words):
        api.proceed(change.key, shop.db_alias)
    assert api.status(change.key, shop.db_alias).status is Status.WAITING
    with pytest.raises(Refused, match=words):
        change._cut_over(shop.db_alias, in_stage(change, shop))
    assert "likes" not in shop.definition().columns


def test_a_new_verification_lets_a_change_proceed(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)
    ledger._update(shop.db_alias, change.key, verified_at=timezone.now() - dt.timedelta(days=3))
    shop.execute(f"UPDATE {Change(shop, LIKES).shadow} SET likes = 8 WHERE name = 'name 1'")

    assert change.verify(shop.db_alias) == 1
    with pytest.raises(Refused, match="The tables were compared at"):
        api.proceed(change.key, shop.db_alias)
    assert change.verify(shop.db_alias) == 0

    assert proceed(start, change, shop).status is Status.APPLIED


def test_all_rows_are_compared_again_while_the_change_waits(shop, start, monkeypatch):
    shop.fill(30)
    change, _ = start(LIKES, max_batch_size=7)
    monkeypatch.setattr("massmigration_schema.change.COMPARED_FOR", 0)
    verified = age_verification(shop, change)
    shop.execute(f"UPDATE {Change(shop, LIKES).shadow} SET likes = 8 WHERE name = 'name 17'")

    waits = [change._compare_again(shop.db_alias) for _ in range(4)]

    assert waits == [dt.timedelta(0)] * 4
    assert ledger.require(shop.db_alias, change.key).comparison["found"] == 1
    assert ledger.require(shop.db_alias, change.key).verified_at == verified
    for _ in range(2):  # the last rows, and what is beyond them
        change._compare_again(shop.db_alias)
    assert shop.execute(f"SELECT DISTINCT likes FROM {Change(shop, LIKES).shadow}") == [(7,)]
    assert ledger.require(shop.db_alias, change.key).differences == 1
    with pytest.raises(Refused, match="The tables were compared at no time"):
        api.proceed(change.key, shop.db_alias)

    for _ in range(6):
        change._compare_again(shop.db_alias)

    assert change._compare_again(shop.db_alias) > dt.timedelta(minutes=59)
    assert proceed(start, change, shop).status is Status.APPLIED


def age_verification(shop, change):
    """Let the last comparison be two hours old."""
    verified = timezone.now() - dt.timedelta(hours=2)
    ledger._update(shop.db_alias, change.key, verified_at=verified)
    return verified


def test_a_worker_compares_the_rows_while_the_change_waits(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)
    verified = age_verification(shop, change)

    api.recover(shop.db_alias)

    wait_until(lambda: ledger.require(shop.db_alias, change.key).verified_at > verified)
    assert api.status(change.key, shop.db_alias).status is Status.WAITING


def test_the_comparison_stops_at_once_when_the_operator_proceeds(shop, start):
    shop.fill(30)
    change, _ = start(LIKES, max_batch_size=7)
    age_verification(shop, change)
    MigrationRecord.objects.using(shop.db_alias).update(status=Status.PAUSED)

    change._compare_again(shop.db_alias)

    first = shop.objects().order_by("pk").values_list("pk", flat=True)[6]
    assert ledger.require(shop.db_alias, change.key).comparison == {"last": [first], "found": 0}


def test_nothing_is_compared_after_the_swap(shop, start):
    change, _ = start(LIKES, cutover="auto")
    age_verification(shop, change)

    change._compare_again(shop.db_alias)

    assert ledger.require(shop.db_alias, change.key).comparison == {}


def test_many_rows_that_differ_while_it_waits_stop_the_swap(shop, start):
    shop.fill(5)
    change, _ = start(LIKES, max_differences=3)
    age_verification(shop, change)
    shop.execute(f"UPDATE {Change(shop, LIKES).shadow} SET likes = 8")

    change._compare_again(shop.db_alias)
    change._compare_again(shop.db_alias)

    assert ledger.require(shop.db_alias, change.key).verified_at is not None
    with pytest.raises(Refused, match="Verification found 5 rows that differ; allowed: 3"):
        api.proceed(change.key, shop.db_alias)


def test_verification_is_refused_after_the_swap(shop, start):
    change, _ = start(LIKES, cutover="auto")

    with pytest.raises(Refused, match="has no new table any more") as raised:
        change.verify(shop.db_alias)

    assert raised.value.code == "online.not_ready"


def test_a_change_that_has_not_begun_cannot_be_verified(shop):
    change = SchemaChange(ShopFile(shop.migration(LIKES), shop.state.clone()))

    with pytest.raises(Refused, match="has not begun on database") as raised:
        change.verify(shop.db_alias)

    assert raised.value.code == "online.not_started"


def test_a_change_whose_file_was_edited_does_not_proceed(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)
    index = migrations.AddIndex("campaign", models.Index(fields=["budget"], name="late"))
    edited = SchemaChange(ShopFile(shop.migration(LIKES, index, direct_up_to=0), shop.state.clone()))

    with pytest.raises(ActionRefused, match=r"began with another plan: .* Deploy the version that it began with"):
        edited.check_action("proceed", shop.db_alias)

    change.check_action("proceed", shop.db_alias)


def test_a_worker_with_another_plan_gives_the_job_back(shop, start, monkeypatch):
    shop.fill(3)
    change, _ = start(LIKES)
    ledger._update(shop.db_alias, change.key, fingerprint="another")
    monkeypatch.setattr(SchemaChange, "check_action", lambda *arguments: None)
    api.proceed(change.key, shop.db_alias)

    progress = wait_for_reason(change, shop)

    assert progress.status is Status.RUNNING
    assert "likes" not in shop.definition().columns


def wait_for_reason(change, shop):
    """Wait until the change says why it does not continue."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        reasons = ShardRecord.objects.using(shop.db_alias).values_list("throttled_by", flat=True)
        if any("began with another plan" in reason for reason in reasons):
            return api.status(change.key, shop.db_alias)
        time.sleep(0.05)
    raise AssertionError("It gave no reason.")


def in_stage(change, shop, **given):
    return StageContext(key=change.key, db_alias=shop.db_alias, attempt_id="", stage=0, **given)


def test_a_worker_does_nothing_while_another_changes_the_definitions(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)
    tag = change.derivation(shop.db_alias).plan.tag

    def other():
        change._cut_over(shop.db_alias, in_stage(change, shop))

    with shop.dialect.lock(shop.db_alias).definition_lock(tag):
        raised = in_thread(other).exception(PATIENCE)

    assert isinstance(raised, NotNow)
    assert "likes" not in shop.definition().columns


def test_a_worker_that_was_frozen_until_another_took_over_does_nothing(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)

    with pytest.raises(NotNow):
        change._cut_over(shop.db_alias, in_stage(change, shop, is_current=lambda: False))

    assert "likes" not in shop.definition().columns


@pytest.mark.parametrize("action", ["forget", "fake"])
def test_tables_and_triggers_are_not_left_behind(shop, start, action):
    shop.fill(3)
    change, _ = start(LIKES)

    with pytest.raises(
        ActionRefused, match=r"Tables or triggers of shop:0002_change\.schema are in the database\. Abort"
    ):
        getattr(api, action)(change.key, shop.db_alias)


def test_an_abort_leaves_nothing(shop, start):
    shop.fill(3)
    before = shop.definition()
    change, _ = start(LIKES)

    api.perform_action("abort", change.key, shop.db_alias)

    assert shop.definition() == before
    assert shop.catalog.orphans() == []
    assert ledger.get(shop.db_alias, change.key) is None
    assert api.status(change.key, shop.db_alias) is None


def test_a_cleanup_leaves_what_a_plain_migrate_would_make(shop, start):
    shop.fill(3)
    change, _ = start(LIKES, cutover="auto", keep_old=dt.timedelta(microseconds=1))

    api.perform_action("cleanup", change.key, shop.db_alias)

    assert shop.catalog.orphans() == []
    found = shop.definition()
    shop.execute("DELETE FROM campaign")
    shop.execute("ALTER TABLE campaign DROP COLUMN likes")
    shop.migrate(LIKES)
    assert found == shop.definition()


def test_the_old_table_is_kept_for_a_while(shop, start):
    shop.fill(3)

    change, _ = start(LIKES, cutover="auto")

    assert api.migration_actions(change.key, shop.db_alias) == []
    assert change.old_table_is_due_at(shop.db_alias) - timezone.now() > dt.timedelta(days=6)


def test_a_change_that_has_swapped_cannot_be_aborted(shop, start):
    shop.fill(3)
    change, _ = start(LIKES, cutover="auto")

    with pytest.raises(Refused, match="has swapped the tables already"):
        change.abort(shop.db_alias, "code:test")

    assert "likes" in shop.definition().columns


def test_a_change_that_has_not_swapped_cannot_be_cleaned_up(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)

    with pytest.raises(Refused, match="has not swapped the tables"):
        change.clean_up(shop.db_alias, "code:test")


def test_verification_on_demand_finds_a_row_in_each_place(shop, start):
    shop.fill(30)
    change, _ = start(LIKES, max_batch_size=7)
    shadow = Change(shop, LIKES).shadow
    shop.execute(f"UPDATE {shadow} SET likes = 8 WHERE name IN ('name 0', 'name 17')")
    shop.execute(f"UPDATE {shadow} SET id = 5000 WHERE name = 'name 29'")

    assert change.verify(shop.db_alias) == 4

    proceed(start, change, shop)
    assert shop.execute("SELECT DISTINCT likes FROM campaign") == [(7,)]
    assert shop.execute("SELECT count(*) FROM campaign WHERE id = 5000") == [(0,)]


@pytest.mark.parametrize(("options", "first"), [({}, 500), ({"max_batch_size": 300}, 300)], ids=str)
def test_the_batches_of_the_copy_adapt(shop, options, first):
    change = SchemaChange(ShopFile(shop.migration(LIKES, **options), shop.state.clone()))

    copy = change.get_stages()[1]

    assert (copy.batch_size, copy.first_batch_size, copy.max_batch_growth) == (None, first, 1.5)
    assert copy.max_batch_size == options.get("max_batch_size", 2000)
    assert copy.batch_duration == dt.timedelta(milliseconds=100)


def test_what_is_refused_is_refused_at_the_launch(shop, start):
    shop.execute("ALTER TABLE campaign DROP COLUMN description")

    with pytest.raises(RefusedForReasons, match=r"online\.drift"):
        start(LIKES)

    assert not Event.objects.using(shop.db_alias).exists()
    assert shop.catalog.orphans() == []


def test_nothing_is_launched_within_a_transaction(shop, start):
    before = shop.definition(), shop.catalog.orphans()

    with transaction.atomic(shop.db_alias), pytest.raises(Refused, match="within a transaction") as raised:
        start(LIKES)

    assert raised.value.code == "online.transaction"
    assert (shop.definition(), shop.catalog.orphans()) == before
    assert not Event.objects.using(shop.db_alias).exists()


@pytest.mark.parametrize("verb", ["abort", "clean_up"])
def test_no_verb_works_within_a_transaction(shop, start, verb):
    shop.fill(3)
    change, _ = start(LIKES, cutover="manual" if verb == "abort" else "auto")
    before = shop.definition(), change.swap(shop.db_alias).tables.made(), api.status(change.key, shop.db_alias).status

    with transaction.atomic(shop.db_alias), pytest.raises(Refused, match="Call this outside atomic"):
        getattr(change, verb)(shop.db_alias, "code:test")

    after = shop.definition(), change.swap(shop.db_alias).tables.made(), api.status(change.key, shop.db_alias).status
    assert after == before


def test_a_table_has_one_change_at_a_time(shop, start):
    shop.fill(3)
    start(LIKES)
    other = ledger.busy_with(shop.db_alias, "campaign")
    migration = shop.migration(ABOUT, direct_up_to=0)
    migration.name = "0003_other"
    second = SchemaChange(ShopFile(migration, shop.state.clone()))

    with (
        store.registered(second),
        pytest.raises(RefusedForReasons, match=r"is being changed by 'shop:0002_change\.schema'"),
    ):
        api.launch(second.key, shop.db_alias)

    assert other == "shop:0002_change.schema"


def test_the_details_say_what_there_is(shop, start):
    shop.fill(3)
    change, _ = start(LIKES)

    found = {detail.label: detail.value for detail in change.get_details(shop.db_alias)}

    assert found["Table"] == "campaign"
    assert found["Rows in the change log"] == 0
    assert "campaign" in found["Tables and triggers"]


def test_a_change_is_not_offered_on_sqlite_and_checks_do_not_warn(shop):
    change = SchemaChange(ShopFile(shop.migration(LIKES), shop.state.clone()))

    assert shop.db_alias in change.get_allowed_db_aliases()
    assert "default" not in change.get_allowed_db_aliases()
    assert [message for message in checks.check_migration(change) if message.id == "massmigration.W005"] == []
    with pytest.raises(Refused, match="Tables of database 'default' cannot be changed online"):
        change.check_db_alias("default")


@pytest.mark.parametrize(("cutover", "is_waiting"), [("manual", 1), ("auto", 0)])
@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_every_stage_has_a_name(shop, cutover, is_waiting):
    change = SchemaChange(ShopFile(shop.migration(LIKES, cutover=cutover), shop.state.clone()))

    assert len(change.get_stages()) == len(STAGES) - 1 + is_waiting
