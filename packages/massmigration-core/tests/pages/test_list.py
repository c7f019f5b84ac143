import pytest
from django.db import DatabaseError, connections
from django.urls import reverse
from django.utils import timezone

from massmigration import overview
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.factories import KEY, Slugs, get, make, queries_of, shard, text_of
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite

HOUR = timezone.timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("slugs")


@only_sqlite
def test_the_list_has_few_queries_for_three_hundred_migrations_on_every_database(client, db_alias):
    for alias in connections:
        MigrationRecord.objects.using(alias).bulk_create(
            MigrationRecord(key=f"shop:{number:04}_one", status=Status.PAUSED, is_planned=True, total=9)
            for number in range(300)
        )
        ShardRecord.objects.using(alias).bulk_create(
            ShardRecord(record=record, attempt_id=record.attempt_id, stage=0, index=0, upper=[9])
            for record in MigrationRecord.objects.using(alias)
        )

    counts = {alias: len(queries_of(alias, lambda: get(client, "manage"))) for alias in connections}
    for alias in connections:
        ShardRecord.objects.using(alias).all().delete()
        MigrationRecord.objects.using(alias).all().delete()

    # The switch, records, shards and failed objects; on the default database also the session and the user.
    assert counts == {alias: 6 if alias == "default" else 4 for alias in connections}


@only_sqlite
def test_the_list_is_filtered_and_what_can_be_run_stands_out(client, db_alias):
    make(db_alias, Status.FAILED, "gone:0001_one", last_error="x")

    assert reverse("massmigration_run", args=[KEY, db_alias]) in text_of(get(client, "manage", query="?status=ready"))
    assert KEY.partition(":")[2] not in text_of(get(client, "manage", query="?app=gone"))
    assert "Its file is missing" in text_of(get(client, "manage", query="?status=failed"))
    assert "No migration matches the filter." in text_of(get(client, "manage", query="?q=nothing+like+it"))


@only_sqlite
def test_a_list_that_cannot_be_read_does_not_say_that_there_are_no_migrations(client, db_alias, monkeypatch):
    def fail(*args, **options):
        raise DatabaseError("no such table")

    monkeypatch.setattr(overview, "read", fail)

    text = text_of(get(client, "manage"))

    assert "no such table" in text
    assert "No installed app has a mass migration" not in text


@only_sqlite
def test_dependencies_are_shown_with_their_statuses_and_keep_it_from_being_started(client, db_alias, monkeypatch):
    other = type("Other", (Slugs,), {"dependencies": [("testapp", "9000_adhoc")]})
    key = register(monkeypatch, other, "9001_other")
    make(db_alias, Status.FAILED)

    page = text_of(get(client, "run", key, db_alias))
    listed = text_of(get(client, "manage", query="?q=9001"))

    assert "it depends on &#x27;testapp:9000_adhoc&#x27; (failed), which must be applied first." in page
    assert f">Launch 9001_other on {db_alias}<" not in page
    assert "Blocked" in listed
    assert f'href="{reverse("massmigration_run", args=[key, db_alias])}"' not in listed


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"lease_until": HOUR, "heartbeat_at": -HOUR}, "Running"),
        ({"lease_until": -HOUR, "heartbeat_at": -HOUR}, "Stuck"),
        ({"lease_until": None, "heartbeat_at": -HOUR}, "Stuck"),
        ({"lease_until": None, "heartbeat_at": -HOUR, "next_send_at": HOUR}, "Running"),
        ({"lease_until": None, "heartbeat_at": -HOUR, "next_send_at": HOUR, "send_count": 1}, "Stuck"),
        ({"lease_until": -HOUR, "heartbeat_at": -HOUR, "is_done": True}, "Stuck"),
    ],
    ids=["long batch", "lease overdue", "nobody at it", "told to wait", "sent again", "done and nobody looked"],
)
def test_the_list_says_stuck_where_the_page_of_the_migration_does(client, db_alias, fields, state):
    now = timezone.now()
    times = {name: now + value if isinstance(value, timezone.timedelta) else value for name, value in fields.items()}
    shard(make(db_alias), 0, **times)

    listed = text_of(get(client, "manage", query=f"?status={state.lower()}"))

    assert f"<span>{state}</span>" in listed.partition('class="mm-matrix')[2]
    assert get(client, "status", KEY, db_alias).json()["is_stuck"] == (state == "Stuck")
    header = text_of(get(client, "failures", KEY, db_alias)).partition('id="mm-badge"')[2].partition("</h")[0]
    assert f"<span>{state}</span>" in header


@only_sqlite
def test_what_is_over_is_never_stuck(client, db_alias):
    shard(make(db_alias, Status.PAUSED), 0, lease_until=timezone.now() - HOUR)

    assert "Stuck" not in text_of(get(client, "manage"))
