"""Times of the records, for different time zones of the project, the database, its session and the server."""

import datetime as dt
import io
import json
import re
import time

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from massmigration import api
from massmigration.dialects.times import DatabaseNow, UtcDateTimeField
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.recorder import shards, stuck
from massmigration.states import Status
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.factories import get, make, text_of
from testsupport.race import KEY as RACING
from testsupport.race import ONCE_EACH, new_race

UTC = dt.timezone.utc
TOKYO, NEW_YORK = "Asia/Tokyo", "America/New_York"
SUMMER_ENDS = dt.datetime(2026, 11, 1, 6, tzinfo=UTC)
"""In New York: the hour before is there twice, from 1 to 2 o'clock."""

INSTANT = dt.datetime(2026, 7, 1, 20, 30, 15, 123456, tzinfo=UTC)
KEY = "testapp:0001_once"

CONFIGURATIONS = {
    "USE_TZ": (True, None),
    "USE_TZ and TIME_ZONE of the database": (True, NEW_YORK),
    "neither": (False, None),
}


def forget_zones(db_alias):
    """Remove the time zones that Django has cached on the connection."""
    connection = connections[db_alias]
    connection.close()
    for name in ("timezone", "timezone_name"):
        connection.__dict__.pop(name, None)


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def configuration(request, db_alias, settings, monkeypatch):
    """A project whose time zone is Tokyo."""
    use_tz, zone = request.param
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = TOKYO
    with monkeypatch.context() as patch:
        patch.setitem(connections[db_alias].settings_dict, "TIME_ZONE", zone)
        forget_zones(db_alias)
        yield request.param
    forget_zones(db_alias)


@pytest.fixture
def race(db_alias, settings):
    yield from new_race(db_alias, settings)


def move(db_alias, settings, zone):
    """Restart the project, and the database's session, in another zone."""
    settings.TIME_ZONE = zone
    forget_zones(db_alias)
    move_session(db_alias, zone)


def move_session(db_alias, zone):
    if db_alias != "default":
        offset = dt.datetime.now(timezone.get_default_timezone()).utcoffset()
        with connections[db_alias].cursor() as cursor:
            cursor.execute(DATABASE_SERVERS[db_alias].time_zone(zone, _written(offset)))


def _written(offset):
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def stored(db_alias):
    """Return the stored time as text, in UTC."""
    at_utc = " AT TIME ZONE 'UTC'" if db_alias == "postgresql" else ""
    with connections[db_alias].cursor() as cursor:
        cursor.execute(f"SELECT launched_at{at_utc} FROM massmigration_migrationrecord")
        return str(cursor.fetchone()[0])[:19]


def test_a_time_is_kept_in_utc_and_read_as_the_same_instant(db_alias, configuration):
    MigrationRecord.objects.using(db_alias).create(key=KEY, launched_at=INSTANT)

    found = MigrationRecord.objects.using(db_alias).get(launched_at=INSTANT, launched_at__lt=INSTANT + dt.timedelta(1))
    assert found.launched_at == INSTANT
    assert stored(db_alias) == "2026-07-01 20:30:15"


def test_the_servers_time_is_kept_in_utc_and_read_as_the_same_instant(db_alias, configuration):
    MigrationRecord.objects.using(db_alias).create(key=KEY, launched_at=DatabaseNow())

    at, now = MigrationRecord.objects.using(db_alias).values_list("launched_at", DatabaseNow()).get()
    assert dt.timedelta(0) <= now - at < dt.timedelta(minutes=1)
    assert abs(dt.datetime.now(UTC) - at) < dt.timedelta(minutes=1)
    assert abs(dt.datetime.fromisoformat(f"{stored(db_alias)}+00:00") - at) < dt.timedelta(minutes=1)


@pytest.fixture
def machine_elsewhere(settings, monkeypatch):
    """A project in Tokyo without `USE_TZ`, in a process in New York: on Windows, Django cannot change the zone."""
    settings.USE_TZ = False
    settings.TIME_ZONE = TOKYO
    with monkeypatch.context() as patch:
        patch.setenv("TZ", NEW_YORK)
        time.tzset()
        yield
    time.tzset()


def test_a_naive_time_of_a_project_without_use_tz_is_one_of_its_zone(db_alias, machine_elsewhere):
    forget_zones(db_alias)
    naive = INSTANT.replace(tzinfo=None) + dt.timedelta(hours=9)

    MigrationRecord.objects.using(db_alias).create(key=KEY, launched_at=naive)

    assert MigrationRecord.objects.using(db_alias).get().launched_at == INSTANT
    forget_zones(db_alias)


@pytest.mark.parametrize("zone", [NEW_YORK, "Pacific/Auckland"])
def test_a_lease_is_neither_held_longer_nor_stolen_when_the_zone_changes(db_alias, configuration, settings, race, zone):
    job = race.claimable()
    assert shards.claim(job, "before") is not None

    move(db_alias, settings, zone)
    assert shards.claim(job, "a thief") is None
    left = shards.shard_state(job).lease_left
    assert dt.timedelta(seconds=30) < left <= dt.timedelta(seconds=60)

    move(db_alias, settings, TOKYO)
    race.shards.update(lease_until=DatabaseNow(-dt.timedelta(seconds=1)))
    move(db_alias, settings, zone)
    assert shards.claim(job, "after") is not None


def test_what_is_due_is_so_whatever_zone_the_session_moves_to(db_alias, configuration, settings, race):
    race.plan()
    race.shards.update(next_send_at=DatabaseNow(dt.timedelta(seconds=50)))
    move(db_alias, settings, "Pacific/Auckland")
    assert stuck.take_stuck_jobs(db_alias) == []

    race.shards.update(next_send_at=DatabaseNow(-dt.timedelta(seconds=1)))
    move(db_alias, settings, NEW_YORK)
    assert len(stuck.take_stuck_jobs(db_alias)) == 1


@pytest.mark.parametrize("minutes", [-90, -30, 30], ids=["into the hour", "within", "out of it"])
def test_the_hour_that_is_there_twice_lasts_an_hour(db_alias, configuration, settings, minutes):
    move(db_alias, settings, NEW_YORK)
    begin = SUMMER_ENDS + dt.timedelta(minutes=minutes)
    make(db_alias, launched_at=begin, started_at=begin, finished_at=begin + dt.timedelta(hours=1))

    record = MigrationRecord.objects.using(db_alias).get()
    assert record.finished_at - record.launched_at == dt.timedelta(hours=1)
    assert record.finished_at > record.launched_at
    assert record.launched_at == begin


def test_a_session_in_another_zone_is_told_the_same_times(db_alias, configuration):
    MigrationRecord.objects.using(db_alias).create(key=KEY, launched_at=INSTANT)

    move_session(db_alias, NEW_YORK)

    assert MigrationRecord.objects.using(db_alias).get().launched_at == INSTANT
    now = MigrationRecord.objects.using(db_alias).values_list(DatabaseNow(), flat=True).get()
    assert abs(dt.datetime.now(UTC) - now) < dt.timedelta(minutes=1)


def test_what_an_insert_returns_of_a_naive_session_is_the_same_instant(settings, postgresql):
    settings.USE_TZ = False
    settings.TIME_ZONE = TOKYO
    naive = INSTANT.replace(tzinfo=None) + dt.timedelta(hours=9)

    assert UtcDateTimeField().from_db_value(naive, None, connections[postgresql]) == INSTANT


def test_pages_commands_and_json_show_the_projects_time(db_alias, configuration):
    record = make(db_alias, Status.FAILED, key=KEY, launched_at=INSTANT, started_at=INSTANT, finished_at=INSTANT)
    Event.objects.using(db_alias).create(key=KEY, at=INSTANT, verb="launch", actor="ann")
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))

    page = text_of(get(client, "detail", KEY, db_alias))
    listed = text_of(client.get(reverse("admin:massmigration_migrationrecord_changelist") + f"?db={db_alias}"))

    machine = {dt.datetime.fromisoformat(each) for each in re.findall(r'<time datetime="([^"]*)"', page)}
    assert machine == {INSTANT}
    assert "July 2, 2026, 5:30 a.m." in page
    assert "July 2, 2026, 5:30 a.m." in listed
    assert said("massmigration", "status", *KEY.split(":"), database=db_alias).count("2026-07-02 05:30:15") == 3
    (entry,) = (
        each
        for each in json.loads(said("showmassmigrations", format="json", database=db_alias))
        if each["key"] == record.key
    )
    assert dt.datetime.fromisoformat(entry["launched_at"]) == INSTANT
    assert dt.datetime.fromisoformat(entry["launched_at"]).utcoffset() is not None


def said(*arguments, **options):
    stdout = io.StringIO()
    call_command(*arguments, stdout=stdout, **options)
    return stdout.getvalue()


def test_a_run_is_applied_and_its_time_is_counted(db_alias, configuration, race):
    race.launch()
    race.drain()

    assert race.ending == ONCE_EACH
    elapsed = api.status(RACING, db_alias).elapsed
    assert dt.timedelta(0) < elapsed < dt.timedelta(minutes=5)
    assert not ShardRecord.objects.using(db_alias).filter(heartbeat_at__gt=DatabaseNow()).exists()
