"""The time between deployment and `migrate`: there are no tables, or only that of django-mass-migration."""

import io

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse

from massmigration import api
from massmigration.enforcement import migration_is_applied, view_requires_migration
from massmigration.exceptions import RecordsUnreadable
from massmigration.recorder import tables
from testsupport.v03_versions import other_database

KEY = "testapp:0001_once"
OLD_TABLE = """
CREATE TABLE massmigration_migrationrecord (
    {key} varchar(250) NOT NULL PRIMARY KEY, app_label varchar(100) NOT NULL, name varchar(150) NOT NULL,
    attempt_uuid char(32) NOT NULL, initiated_at timestamp NULL, in_progress boolean NOT NULL,
    is_applied boolean NOT NULL, applied_at timestamp NULL, has_error boolean NOT NULL, last_error text NOT NULL,
    was_faked boolean NOT NULL
)
"""
"""As django-mass-migration 0.3.9 has it; `test_compat_records` has the real one."""

WORDS = {"none": "has no tables for mass migrations", "old": "has the table of django-mass-migration, which migrate"}


@pytest.fixture(params=WORDS)
def said(request, db_alias):
    """The expected message about a database without the tables of the records."""
    with other_database(db_alias):
        if request.param == "old":
            make_old_table(db_alias)
        yield f"Database '{db_alias}' {WORDS[request.param]}"


@pytest.fixture
def old_server(server_alias):
    """A database beside the default one, with the old table."""
    with other_database(server_alias):
        make_old_table(server_alias)
        yield server_alias


def make_old_table(db_alias):
    with connections[db_alias].cursor() as cursor:
        cursor.execute(OLD_TABLE.format(key=connections[db_alias].ops.quote_name("key")))


@pytest.fixture
def client(old_server):
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


@pytest.mark.parametrize(
    "arguments",
    [
        ("showmassmigrations",),
        ("massmigrate",),
        ("massmigrate", "testapp", "0001"),
        ("massmigrate", "--recover"),
        ("massmigration", "status", "testapp", "0001"),
        ("massmigration", "launch", "testapp", "0001"),
        ("massmigration", "pause", "testapp", "0001"),
    ],
    ids=" ".join,
)
def test_commands_say_what_to_run(db_alias, said, arguments):
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, "--database", db_alias, stdout=io.StringIO(), stderr=io.StringIO())

    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(f"Run: manage.py migrate --database {db_alias}")


def test_a_launch_by_code_says_what_to_run(db_alias, said):
    with pytest.raises(RecordsUnreadable, match=said):
        api.launch(KEY, db_alias)


def test_tables_that_lack_a_column_are_out_of_date(db_alias):
    with other_database(db_alias):
        with connections[db_alias].cursor() as cursor:
            cursor.execute("CREATE TABLE massmigration_migrationrecord (status varchar(16))")

        with pytest.raises(RecordsUnreadable, match="has tables of mass migrations that lack attempt_id, backend, "):
            tables.require(db_alias)


def test_a_guarded_view_answers_503_and_the_log_says_what_to_run(db_alias, said, caplog):
    @view_requires_migration(KEY, [db_alias], skip_in_tests=False)
    def view(request):
        return HttpResponse("It ran.")

    answer = view(RequestFactory().get("/"))

    assert answer.status_code == 503
    assert f"Run: manage.py migrate --database {db_alias}" in caplog.text
    with pytest.raises(RecordsUnreadable, match=f"Run: manage.py migrate --database {db_alias}"):
        migration_is_applied(KEY, db_alias)


@pytest.mark.parametrize("view", ["detail", "run", "failures", "history", "delete", "status"])
def test_pages_say_what_to_run(client, old_server, view):
    answer = client.get(reverse(f"massmigration_{view}", args=[KEY, old_server]))

    assert answer.status_code == 503
    assert "has the table of django-mass-migration" in answer.content.decode()
    assert f"manage.py migrate --database {old_server}" in answer.content.decode()


def test_a_verb_on_a_page_says_what_to_run(client, old_server):
    answer = client.post(reverse("massmigration_action", args=["pause", KEY, old_server]))

    assert answer.status_code == 503
    assert f"manage.py migrate --database {old_server}" in answer.content.decode()


def test_the_list_shows_the_other_databases(client, old_server):
    answer = client.get(reverse("massmigration_manage"))

    assert answer.status_code == 200
    assert "has the table of django-mass-migration" in answer.content.decode()
    assert "0001_once" in answer.content.decode()


@pytest.mark.parametrize("model", ["migrationrecord", "failedobject", "event"])
@pytest.mark.parametrize("view", ["changelist", "change", "history", "add"])
def test_the_admin_says_what_to_run(client, old_server, model, view):
    arguments = ["1"] if view in ("change", "history") else []

    answer = client.get(reverse(f"admin:massmigration_{model}_{view}", args=arguments) + f"?db={old_server}")

    assert (answer.status_code, answer.headers["Location"]) == (302, reverse("admin:index"))
    assert f"manage.py migrate --database {old_server}" in client.get(reverse("admin:index")).content.decode()
