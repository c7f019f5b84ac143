"""Records, migrations and users for the tests of the pages, and what the pages show."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"
NOW = "2026-01-02T03:04:05Z"


class Slugs(MapperMigration):
    """Gives every item a slug."""

    update_fields = ["slug"]

    def get_queryset(self, db_alias: str) -> Any:
        return Item.objects.using(db_alias)

    def operation(self, obj: Any, db_alias: str) -> None:
        obj.slug = f"slug of {obj.name}"


def client_with(*permissions: str) -> Client:
    """Return the client of a staff user with these permissions for migrations, such as "view"."""
    user = User.objects.create_user("ann", is_staff=True)
    codenames = [f"{name}_migrationrecord" for name in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def get(client: Any, view: str, *arguments: str, query: str = "") -> Any:
    """Return the response of a page."""
    response = client.get(reverse(f"massmigration_{view}", args=arguments) + query)
    assert response.status_code == 200
    return response


def text_of(response: Any) -> str:
    """Return the text of a page without the migration's source, which may contain what a test looks for."""
    return re.sub(r"<summary>Source: .*?</details>", "", response.content.decode(), flags=re.DOTALL)


def make(db_alias: str, status: Status = Status.RUNNING, key: str = KEY, **fields: Any) -> MigrationRecord:
    """Create a record."""
    values = {"is_planned": True, "total": 1000, "started_at": timezone.now(), **fields}
    return MigrationRecord.objects.using(db_alias).create(key=key, status=status, **values)


def shard(record: Any, index: int = 0, **fields: Any) -> ShardRecord:
    """Create a shard of a record."""
    values = {"attempt_id": record.attempt_id, "stage": 0, "upper": [9], "heartbeat_at": timezone.now()}
    values["changed"] = fields.get("processed", 0)
    return ShardRecord.objects.using(record._state.db).create(record=record, index=index, **{**values, **fields})


def fail(record: Any, *pks: int, **fields: Any) -> None:
    """Create failed objects of a record."""
    FailedObject.objects.using(record._state.db).bulk_create(
        FailedObject(
            **{
                "record": record,
                "attempt_id": record.attempt_id,
                "stage": 0,
                "shard": 0,
                "object_pk": [pk],
                "is_behind_cursor": True,
                "exception_class": "builtins.ValueError",
                "message": f"bad {pk}",
                "fingerprint": "f" * 64,
                "failed_at": NOW,
                **fields,
            }
        )
        for pk in pks
    )


def queries_of(db_alias: str, call: Callable[[], object]) -> list[str]:
    """Return the SQL that `call` sends to this database, with names in double quotes."""
    with CaptureQueriesContext(connections[db_alias]) as queries:
        call()
    return [query["sql"].replace("`", '"') for query in queries]
