"""Records for the tests of the pages, and what the pages say of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status

KEY = "testapp:9000_adhoc"
NOW = "2026-01-02T03:04:05Z"


def get(client: Any, view: str, *arguments: str, query: str = "") -> Any:
    """The response of one of the pages."""
    response = client.get(reverse(f"massmigration_{view}", args=arguments) + query)
    assert response.status_code == 200
    return response


def text_of(response: Any) -> str:
    """What it says, but for the migration's source: that is the test's own file, and has all that a test looks for."""
    return re.sub(r"<summary>Source: .*?</details>", "", response.content.decode(), flags=re.DOTALL)


def make(db_alias: str, status: Status = Status.RUNNING, key: str = KEY, **fields: Any) -> MigrationRecord:
    """A record."""
    values = {"is_planned": True, "total": 1000, "started_at": timezone.now(), **fields}
    return MigrationRecord.objects.using(db_alias).create(key=key, status=status, **values)


def shard(record: Any, index: int = 0, **fields: Any) -> ShardRecord:
    """One of its shards."""
    values = {"attempt_id": record.attempt_id, "stage": 0, "upper": [9], "heartbeat_at": timezone.now()}
    return ShardRecord.objects.using(record._state.db).create(record=record, index=index, **{**values, **fields})


def fail(record: Any, *pks: int, **fields: Any) -> None:
    """Failed objects of it."""
    FailedObject.objects.using(record._state.db).bulk_create(
        FailedObject(
            **{
                "record": record,
                "attempt_id": record.attempt_id,
                "stage": 0,
                "shard": 0,
                "object_pk": [pk],
                "was_passed": True,
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
    """The SQL that it sends to this database, with names in double quotes."""
    with CaptureQueriesContext(connections[db_alias]) as queries:
        call()
    return [query["sql"].replace("`", '"') for query in queries]
