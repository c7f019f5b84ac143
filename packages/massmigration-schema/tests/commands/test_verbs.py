import json

import pytest
from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.exceptions import GateClosed
from massmigration.states import Status
from testsupport.shop_app import installed

LIKES = 'migrations.AddField("campaign", "likes", models.IntegerField(default=7))'
KEY = "shop:0002_change.schema"


@pytest.fixture
def options():
    """The options of the migration."""
    return {}


@pytest.fixture
def online(shop, tmp_path, capsys, options):
    """A function that runs `onlinemigration`, and returns its output; the app's second migration adds a column."""

    def run(verb, *arguments, name=("shop", "0002")):
        call_command("onlinemigration", verb, *name, "--database", shop.db_alias, *arguments, verbosity=0)
        return capsys.readouterr().out

    with installed(shop, tmp_path, LIKES, direct_up_to=0, strategy="shadow", **options):
        yield run


def answer(monkeypatch, text):
    monkeypatch.setattr("builtins.input", lambda question: text)


def status(shop):
    found = api.status(KEY, shop.db_alias)
    return found and found.status


def test_a_change_from_the_start_to_the_cleanup(shop, online, monkeypatch):
    shop.fill(20)

    started = online("start")

    assert "manage.py onlinemigration cutover shop 0002_change" in started
    assert status(shop) is Status.WAITING
    assert online("verify") == "All rows are equal.\n"
    answer(monkeypatch, "0002_change")
    online("cutover")
    assert status(shop) is Status.APPLIED
    assert shop.execute("SELECT DISTINCT likes FROM campaign") == [(7,)]
    assert online("cleanup", "--force") == "The old table was dropped.\n"
    assert online("orphans", name=()) == ""


def test_migrate_refuses_before_the_change_and_has_nothing_to_do_after_it(shop, online, capsys):
    shop.fill(3)
    with pytest.raises(GateClosed, match=r"Make it online: manage\.py onlinemigration start shop 0002_change"):
        call_command("migrate", "shop", database=shop.db_alias, verbosity=0)
    online("start")
    with pytest.raises(GateClosed, match=r"shop\.0002_change is being made online"):
        call_command("migrate", "shop", database=shop.db_alias, verbosity=0)
    online("cutover", "--no-input")
    capsys.readouterr()

    call_command("migrate", "shop", database=shop.db_alias, verbosity=1)

    assert "No migrations to apply." in capsys.readouterr().out


def test_the_same_command_cuts_over_after_rows_were_corrected(shop, tmp_path):
    shop.fill(2)
    unique = 'migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))'
    name = {"database": shop.db_alias, "verbosity": 0}
    with installed(shop, tmp_path, unique, direct_up_to=0, strategy="shadow"):
        call_command("onlinemigration", "start", "shop", "0002", **name)
        shop.execute("UPDATE campaign SET post = 'same'")
        with pytest.raises(CommandError, match="1 rows do not fit the new table: 2"):
            call_command("onlinemigration", "cutover", "shop", "0002", interactive=False, **name)
        shop.execute("UPDATE campaign SET post = name")

        call_command("onlinemigration", "cutover", "shop", "0002", interactive=False, **name)

        assert status(shop) is Status.APPLIED


def test_a_cutover_before_the_change_waits_is_refused(shop, tmp_path):
    shop.fill(2)
    short = 'migrations.AlterField("campaign", "name", models.CharField(max_length=2))'
    with installed(shop, tmp_path, short, direct_up_to=0, strategy="shadow"):
        with pytest.raises(CommandError, match="failed"):
            call_command("onlinemigration", "start", "shop", "0002", database=shop.db_alias, verbosity=0)

        with pytest.raises(CommandError, match="proceed requires the status waiting"):
            call_command(
                "onlinemigration", "cutover", "shop", "0002", database=shop.db_alias, interactive=False, verbosity=0
            )


def test_an_abort_leaves_the_table_as_it_was(shop, online):
    shop.fill(3)
    before = shop.definition()
    online("start")

    online("abort", "--no-input")

    assert shop.definition() == before
    assert status(shop) is None


@pytest.mark.parametrize("options", [{"reverse_sync": True}])
def test_a_change_is_reverted_and_cleaned_up(shop, online, monkeypatch):
    shop.fill(3)
    before = shop.definition()
    online("start")
    online("cutover", "--no-input")
    answer(monkeypatch, "0002_change")

    reverted = online("revert")

    assert reverted == "The old table is in its place again. The new one is kept until the cleanup.\n"
    assert shop.definition() == before
    assert online("cleanup") == "The new table was dropped. The table is as it was before.\n"
    assert online("orphans", name=()) == ""


@pytest.mark.parametrize("verb", ["cutover", "abort"])
def test_a_wrong_answer_changes_nothing(shop, online, monkeypatch, verb):
    shop.fill(3)
    online("start")
    answer(monkeypatch, "yes")

    with pytest.raises(CommandError, match="Nothing was changed"):
        online(verb)

    assert status(shop) is Status.WAITING


def test_the_old_table_is_kept_without_force(shop, online):
    shop.fill(3)
    online("start")
    online("cutover", "--no-input")

    with pytest.raises(CommandError, match=r"The old table is kept until .* To drop it now, add --force"):
        online("cleanup", "--no-input")


def test_rows_that_differ_are_an_exit_code(shop, online):
    shop.fill(3)
    online("start")
    change = api.get_all_migrations()
    change = next(each for each in change if each.key == KEY)
    shop.execute(f"DELETE FROM {change.swap(shop.db_alias).tables.names.shadow}")

    with pytest.raises(SystemExit) as raised:
        online("verify")

    assert raised.value.code == 1


def test_the_status_shows_what_there_is(shop, online):
    shop.fill(3)
    online("start")

    assert "Rows in the change log" in online("status")
    assert json.loads(online("status", "--format", "json"))


def test_a_change_of_which_the_ledger_does_not_know_is_an_orphan(shop, online):
    shop.fill(3)
    before = shop.definition()
    online("start")
    from massmigration_schema import ledger

    ledger.forget(shop.db_alias, KEY)
    with pytest.raises(SystemExit):
        online("orphans", name=())

    online("orphans", "--drop", "--no-input", name=())

    assert shop.definition() == before


def test_massmigrate_without_a_name_passes_over_it(shop, online):
    shop.fill(3)

    call_command("massmigrate", "shop", database=shop.db_alias, verbosity=0)

    assert status(shop) is None


def test_a_migration_that_is_not_made_online_is_refused(shop, online):
    with pytest.raises(CommandError, match="App 'shop' has no single online migration '0001'; found none"):
        online("start", name=("shop", "0001"))


@pytest.mark.parametrize("options", [{"reverse_sync": True}])
def test_a_change_that_later_migrations_need_is_not_reverted(shop, online, tmp_path):
    text = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    dependencies = [{}]\n"
    later = tmp_path / "shop/migrations/0003_later.py"
    later.write_text(text.format('("shop", "0002_change")'))
    shop.fill(3)
    online("start")
    online("cutover", "--no-input")
    call_command("migrate", "shop", database=shop.db_alias, verbosity=0)

    with pytest.raises(CommandError, match=r"are applied: shop\.0003_later\. Reverse them first"):
        online("revert", "--no-input")

    call_command("migrate", "shop", "0002", database=shop.db_alias, verbosity=0)
    assert online("revert", "--no-input").startswith("The old table is in its place again.")
