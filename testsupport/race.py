"""A migration for races, whose jobs stay in a list until the test performs them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

from django.db.models import F

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.worker import perform
from testsupport.oracle import calls, counts, make_items, rows, verbs
from testsupport.testapp import knobs
from testsupport.testapp.models import Item

KEY = "testapp:9001_racing"
LONG_AGO = DatabaseNow(dt.timedelta(days=-1))
DUMMY = "massmigration.backends.dummy.DummyBackend"


class Racing(MapperMigration):
    batch_size = 3
    before: Callable[[], None] | None = None
    """Called in the first batch before the first object's operation, once."""

    after: Callable[[], None] | None = None
    """Called there after it."""

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        before, self.before = self.before, None
        if before:
            before()
        obj.n = F("n") + 1
        obj.save()
        knobs.log_call("racing", obj.pk, db_alias)
        after, self.after = self.after, None
        if after:
            after()


def new_race(db_alias: str, settings: Any) -> Iterator[Race]:
    """Yield a race that is ready to launch."""
    settings.MASSMIGRATION_BACKEND = DUMMY
    migration = Racing(*KEY.split(":"))
    make_items(db_alias, 8)
    with store.registered(migration):
        yield Race(db_alias, migration)


class Race:
    """A migration on one database, and the jobs that were sent for it."""

    def __init__(self, db_alias: str, migration: Racing) -> None:
        self.db_alias = db_alias
        self.migration = migration

    @property
    def sent(self) -> list[Any]:
        return get_backend().sent

    @property
    def record(self) -> MigrationRecord:
        return MigrationRecord.objects.using(self.db_alias).get()

    @property
    def shards(self):
        return ShardRecord.objects.using(self.db_alias)

    def launch(self) -> None:
        api.launch(KEY, self.db_alias, actor="code:test")

    def take(self) -> str:
        """Remove and return the oldest job."""
        return self.sent.pop(0)[0]

    def plan(self) -> list[str]:
        """Launch and plan; remove and return the jobs of the shards."""
        self.launch()
        perform(self.take())
        return [self.take() for _ in range(len(self.sent))]

    def claimable(self) -> Job:
        return Job.loads(self.plan()[0])

    def drain(self) -> None:
        """Perform all jobs that were sent, delayed or not."""
        while self.sent:
            perform(self.take())

    def expire(self) -> None:
        """End all leases, and make everything due."""
        self.shards.update(lease_until=LONG_AGO, next_send_at=LONG_AGO)
        MigrationRecord.objects.using(self.db_alias).update(next_send_at=LONG_AGO)

    @property
    def ending(self) -> tuple[Any, ...]:
        """Return the final state, which must equal `ONCE_EACH`."""
        applied = verbs(self.db_alias).count("applied")
        return self.record.status, applied, counts(self.db_alias), calls(self.db_alias) == rows(self.db_alias)


ONCE_EACH = ("applied", 1, [1], True)
