import datetime as dt

import pytest
from django.db import connections, transaction
from django.utils import timezone

from massmigration.dialects.times import DatabaseNow
from massmigration.models import MigrationRecord

TOLERANCE = dt.timedelta(minutes=1)
OFFSETS = [dt.timedelta(0), dt.timedelta(hours=7, microseconds=250_000), dt.timedelta(days=-400)]


@pytest.fixture
def record(db_alias):
    return MigrationRecord.objects.using(db_alias).create(key="testapp:0001")


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_the_servers_time_is_written_in_utc(db_alias, record, offset):
    MigrationRecord.objects.using(db_alias).update(launched_at=DatabaseNow(offset))

    record.refresh_from_db()
    assert abs(record.launched_at - timezone.now() - offset) < TOLERANCE


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_the_servers_time_is_inserted_and_selected_alike(db_alias, offset):
    MigrationRecord.objects.using(db_alias).create(key="testapp:0002", launched_at=DatabaseNow(offset))

    found, now = MigrationRecord.objects.using(db_alias).values_list("launched_at", DatabaseNow(offset)).get()
    assert dt.timedelta(0) <= now - found < TOLERANCE


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_server_in_another_time_zone_tells_the_same_time(server_alias):
    MigrationRecord.objects.using(server_alias).create(key="testapp:0001")
    with connections[server_alias].cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+09:00'")

    MigrationRecord.objects.using(server_alias).update(launched_at=DatabaseNow())

    found = MigrationRecord.objects.using(server_alias).get().launched_at
    connections[server_alias].close()
    assert abs(found - timezone.now()) < TOLERANCE


@pytest.mark.parametrize(("offset", "expected"), [(-1, 1), (1, 0)])
def test_times_are_compared_by_the_server(db_alias, record, offset, expected):
    MigrationRecord.objects.using(db_alias).update(launched_at=DatabaseNow(dt.timedelta(seconds=offset)))

    assert MigrationRecord.objects.using(db_alias).filter(launched_at__lte=DatabaseNow()).count() == expected


def test_the_time_goes_on_within_a_transaction(server_alias):
    MigrationRecord.objects.using(server_alias).create(key="testapp:0001")
    with transaction.atomic(using=server_alias):
        times = [MigrationRecord.objects.using(server_alias).values_list(DatabaseNow()).get()[0] for _ in range(2)]

    assert times[0] < times[1]
