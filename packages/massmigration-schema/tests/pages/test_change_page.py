"""The page of an online change, and what it lets whom do."""

import html

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from massmigration import api
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration_schema import ledger, reports
from testsupport.shop import Reader
from testsupport.shop_app import installed
from testsupport.threads import PATIENCE
from testsupport.worker_processes import wait_until

KEY = "shop:0002_change.schema"
NAME = "0002_change.schema"
OPERATIONS = (
    'migrations.AddField("campaign", "likes", models.IntegerField(default=7)), '
    'migrations.RenameField("campaign", "description", "about")'
)


@pytest.fixture
def change(shop, tmp_path):
    """A change that has not begun, of a table with rows."""
    shop.fill(3)
    with installed(shop, tmp_path, OPERATIONS, direct_up_to=0, strategy="shadow"):
        yield reports.find("shop", "0002")


@pytest.fixture
def waiting(shop, change):
    """The same change, which waits for the cutover."""
    api.launch(KEY, shop.db_alias)
    assert api.wait(KEY, shop.db_alias, timeout=PATIENCE).status is Status.WAITING
    return change


def client_with(*permissions, **options):
    """Return a client of a user with these permissions."""
    user = User.objects.create_user("ann")
    names = [f"{permission}_migrationrecord" for permission in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client(**options)
    client.force_login(user)
    return client


def text_of(response):
    return html.unescape(response.content.decode())


def page_of(client, shop):
    return text_of(client.get(reverse("massmigration_detail", args=[KEY, shop.db_alias])))


def post(client, shop, name, typed=NAME):
    """Confirm an action, as its form does. Return the page that follows."""
    record = MigrationRecord.objects.using(shop.db_alias).get(key=KEY)
    seen = f"{record.attempt_id} {record.status}" + (f" {record.stage}" if record.status == Status.WAITING else "")
    address = reverse("massmigration_action", args=[name, KEY, shop.db_alias])
    return client.post(address, {"typed": typed, "seen": seen}, follow=True)


def status(shop):
    found = api.status(KEY, shop.db_alias)
    return found and found.status


def test_the_page_shows_the_statements_and_warnings_before_the_start(shop, change):
    page = page_of(client_with("view"), shop)

    assert "ALTER TABLE" in page
    assert "ADD COLUMN" in page
    assert any(warning in page for warning in change.derivation(shop.db_alias).warnings)


def test_the_page_shows_what_exists_and_where_the_change_is(shop, waiting):
    page = page_of(client_with("view"), shop)

    assert "wait for the cutover" in page
    made = waiting.swap(shop.db_alias).tables.made()
    assert made
    assert [name for name in made if name not in page] == []
    assert "ADD COLUMN" in page


def test_the_page_shows_the_reasons_in_the_log_to_those_who_may_inspect(shop, waiting):
    tables = waiting.swap(shop.db_alias).tables
    (key,) = tables.plan.log_key
    rows = "(1, 'too long'), (2, 'too long'), (3, 'a duplicate')"
    shop.execute(f"INSERT INTO {tables.names.log} ({key}, why) VALUES {rows}")

    page = page_of(client_with("view", "inspect"), shop)

    assert "2: too long\n1: a duplicate" in page
    User.objects.all().delete()
    assert "too long" not in page_of(client_with("view"), shop)


def test_the_page_shows_old_transactions_to_those_who_may_inspect(shop, waiting):
    with Reader(shop.db_alias) as reader:
        client = client_with("view", "inspect")

        # It is old after 0.3 s.
        wait_until(lambda: f"session {reader.session} of" in page_of(client, shop))
        # The batches of the copy are such transactions themselves.
        MigrationRecord.objects.using(shop.db_alias).update(stage=1, status=Status.PAUSED)
        assert "Old transactions on the table" not in page_of(client, shop)
        MigrationRecord.objects.using(shop.db_alias).update(stage=8, status=Status.WAITING)

    # The server ends the reader's session a little later.
    wait_until(lambda: "Old transactions on the table" not in page_of(client, shop))


def test_the_page_of_the_launch_shows_the_file_of_the_migration(shop, change):
    page = text_of(client_with("view", "run").get(reverse("massmigration_run", args=[KEY, shop.db_alias])))

    assert "shop/migrations/0002_change.py" in page


def test_the_command_shows_each_table_on_a_line(shop, waiting, capsys):
    call_command("massmigration", "status", "shop", NAME, database=shop.db_alias)

    lines = capsys.readouterr().out.splitlines()
    first = lines.index("    Tables and triggers:")
    made = waiting.swap(shop.db_alias).tables.made()
    assert lines[first + 1 : first + 1 + len(made)] == [f"        {name}" for name in made]


def test_the_page_shows_the_swap(shop, waiting):
    api.proceed(KEY, shop.db_alias)
    api.wait(KEY, shop.db_alias, timeout=PATIENCE)

    page = page_of(client_with("view"), shop)

    assert "Swapped" in page
    assert "Old table is kept until" in page
    assert "Rows in the change log" not in page


@pytest.mark.parametrize(
    ("action", "needed", "others"), [("proceed", "run", ["control", "forget"]), ("abort", "forget", ["control", "run"])]
)
def test_an_action_needs_its_permission(shop, waiting, action, needed, others):
    response = post(client_with("view", *others), shop, action)

    assert response.status_code == 403
    assert status(shop) is Status.WAITING
    User.objects.all().delete()
    assert post(client_with("view", needed), shop, action).status_code == 200
    assert status(shop) is not Status.WAITING


@pytest.mark.parametrize("action", ["proceed", "abort"])
def test_an_action_needs_the_name_a_token_and_a_post(shop, waiting, action):
    client = client_with("view", "run", "forget")

    assert "type 0002_change.schema to confirm" in text_of(post(client, shop, action, typed="0002"))
    assert client.get(reverse("massmigration_action", args=[action, KEY, shop.db_alias])).status_code == 200
    User.objects.all().delete()
    assert post(client_with("view", "run", "forget", enforce_csrf_checks=True), shop, action).status_code == 403

    assert status(shop) is Status.WAITING


def test_an_abort_from_the_page_leaves_the_table_as_it_was(shop, change):
    before = shop.definition()
    api.launch(KEY, shop.db_alias)
    api.wait(KEY, shop.db_alias, timeout=PATIENCE)

    page = text_of(post(client_with("view", "forget"), shop, "abort"))

    assert "The table is as it was before." in page
    assert shop.definition() == before
    assert status(shop) is None


def test_a_refused_cutover_says_why_on_the_page_and_in_the_command(shop, waiting, capsys):
    ledger._update(shop.db_alias, KEY, triggers={})

    page = text_of(post(client_with("view", "run"), shop, "proceed"))

    assert "Triggers of the change are gone or were altered" in page
    with pytest.raises(Exception, match="Triggers of the change are gone or were altered"):
        proceed_by_command(shop)
    assert status(shop) is Status.WAITING


def test_the_command_of_the_core_cuts_over(shop, waiting):
    proceed_by_command(shop)

    api.wait(KEY, shop.db_alias, timeout=PATIENCE)
    assert status(shop) is Status.APPLIED
    assert shop.execute("SELECT DISTINCT likes FROM campaign") == [(7,)]


def proceed_by_command(shop):
    call_command("massmigration", "proceed", "shop", NAME, database=shop.db_alias, interactive=False, verbosity=0)
