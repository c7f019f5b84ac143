"""The reason why a running migration makes no progress, as commands and pages show it."""

import datetime as dt
import io
import json
import re

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone

from massmigration import api, overview, progress
from massmigration.management import progress_bar
from massmigration.progress import Speed
from massmigration.states import Status
from testsupport.factories import KEY, get, make, shard, text_of

pytestmark = pytest.mark.usefixtures("slugs")

ERROR = "OperationalError: gone [2006]"


def ago(**duration):
    return timezone.now() - dt.timedelta(**duration)


def stalled(tries, error=ERROR, **duration):
    return {"stalled_tries": tries, "stalled_since": ago(**(duration or {"minutes": 2})), "stalled_error": error}


@pytest.fixture
def record(db_alias):
    """A record with three shards, one of which is done."""
    record = make(db_alias)
    shard(record, 0, **stalled(1, "ValueError: a"))
    shard(record, 1, **stalled(3))
    shard(record, 2, is_done=True, **stalled(9, "KeyError: z"))
    return record


def shown(db_alias, *arguments):
    stdout = io.StringIO()
    call_command("showmassmigrations", *arguments, "--database", db_alias, stdout=stdout, no_color=True)
    return stdout.getvalue()


def test_a_reading_tells_of_the_shard_that_came_to_nothing_most_often(db_alias, record):
    reading = api.status(KEY, db_alias)

    assert (reading.stalled_tries, reading.stalled_error) == (3, ERROR)
    assert re.fullmatch(r"no progress since \d\d:\d\d:\d\d, 3 of 10 rounds: O.*: gone \[2006\]", reading.stall)


def test_what_ends_by_itself_is_waited_for(db_alias):
    shard(make(db_alias), **stalled(0, "Waiting: " + ERROR, days=2))

    stall = api.status(KEY, db_alias).stall

    assert re.fullmatch(r"waiting since \d{4}-\d\d-\d\d \d\d:\d\d: OperationalError: gone \[2006\]", stall)


def test_what_keeps_the_plan_is_told_too(db_alias):
    make(db_alias, Status.QUEUED, is_planned=False, **stalled(1))

    assert ", 1 of 10 rounds: OperationalError" in api.status(KEY, db_alias).stall


@pytest.mark.parametrize("status", [Status.PAUSED, Status.FAILED, Status.APPLIED])
def test_what_does_not_run_is_kept_by_nothing(db_alias, status):
    shard(make(db_alias, status, last_error="x", **stalled(1)), **stalled(3))

    assert api.status(KEY, db_alias).stall == ""


def test_the_commands_say_it(db_alias, record):
    (entry,) = (entry for entry in json.loads(shown(db_alias, "--format", "json")) if entry["key"] == KEY)

    assert ", 3 of 10 rounds: " in shown(db_alias)
    assert (entry["stalled_tries"], entry["stalled_error"]) == (3, "ValueError: a")
    assert entry["stalled_since"]
    assert ", 3 of 10 rounds: " in progress_bar.render(progress.read(KEY, db_alias), Speed(), 1000)


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_command_that_takes_too_long_for_the_server_says_what_to_do(db_alias, monkeypatch):
    def read(*arguments, **options):
        with transaction.atomic(using=db_alias), connections[db_alias].cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 20")
            cursor.execute("SELECT pg_sleep(5)")

    monkeypatch.setattr(overview, "read", read)

    with pytest.raises(CommandError, match="Raise the limit for the user that runs mass migrations"):
        shown(db_alias)


def test_the_page_says_it(db_alias, record):
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))

    page = text_of(get(client, "detail", KEY, db_alias))
    answer = get(client, "status", KEY, db_alias, query="?at=0&done=0").json()

    assert "in 3 of 10 rounds. OperationalError: gone [2006]" in page
    assert ("in 3 of 10 rounds." in answer["stall"], answer["stalled_error"]) == (True, ERROR)


def test_who_may_only_look_is_not_told_what_was_raised(db_alias, record):
    client = Client()
    viewer = User.objects.create_user("vic", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_migrationrecord"))
    client.force_login(viewer)

    page = text_of(get(client, "detail", KEY, db_alias))
    answer = get(client, "status", KEY, db_alias, query="?at=0&done=0").json()

    assert "in 3 of 10 rounds." in page
    assert "OperationalError" not in page
    assert "OperationalError" not in json.dumps(answer)
