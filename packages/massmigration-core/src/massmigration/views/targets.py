"""Finds the migration that an address is about."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from django.http import Http404, HttpRequest
from django.utils.translation import gettext

from massmigration import stalling
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import MassMigrationError
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord
from massmigration.progress import Look, look
from massmigration.states import Status
from massmigration.verbs import VERBS, Verb
from massmigration.views.access import may


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One migration on one database."""

    key: str
    db_alias: str
    migration: BaseMigration | None
    file_error: str
    look: Look | None
    """None: it was never launched."""

    @property
    def record(self) -> Any:
        return self.look.record if self.look else None

    @property
    def status(self) -> Status | None:
        return self.look.reading.status if self.look else None

    @property
    def beat(self) -> dt.datetime | None:
        """When a worker made the last checkpoint of the stage."""
        shards = self.look.shards if self.look else ()
        return max((shard.heartbeat_at for shard in shards if shard.heartbeat_at), default=None)

    @property
    def is_stalled(self) -> bool:
        if self.look is None:
            return False
        leases = [shard.lease_until for shard in self.look.shards if shard.lease_until and not shard.is_done]
        overdue = sum(until < self.record.now for until in leases)
        dues = [shard.next_send_at for shard in self.look.shards if not shard.is_done and not shard.send_count]
        due = max((due for due in dues if due), default=None)
        return stalling.is_stalled(self.record, overdue=overdue, held=len(leases), beat=self.beat, due=due)

    @property
    def name(self) -> str:
        return self.key.partition(":")[2] or self.key

    @property
    def confirmation(self) -> str:
        """What is to be confirmed before it is launched, as sentences; empty: nothing."""
        return confirmation_of(self.migration)

    def asks(self, verb: Verb) -> bool:
        """Whether its name must be typed first, because what the verb does cannot be taken back."""
        return verb.is_grave or (verb.name == "launch" and bool(self.confirmation))

    @property
    def seen(self) -> str:
        """What a form carries, to tell whether the migration has changed since it was drawn."""
        return f"{self.record.attempt_id} {self.status}" if self.record else ""

    def is_allowed(self) -> bool:
        return self.migration is None or self.db_alias in self.migration.get_allowed_db_aliases()

    def migration_has_record(self) -> bool:
        """Whether there is a record now."""
        return MigrationRecord.objects.using(self.db_alias).filter(key=self.key).exists()

    def suits(self, verb: Verb) -> bool:
        """Whether the verb has a meaning now."""
        is_managed = self.record is None or self.record.is_managed
        has_file = self.migration is not None and self.is_allowed()
        return verb.suits(self.status, has_file=has_file, is_managed=is_managed)

    def verbs(self, request: HttpRequest) -> list[Verb]:
        """What who asks may do to it, whenever it has a meaning. Launching has a page of its own."""
        return [verb for verb in VERBS.values() if verb.name != "launch" and may(request, verb.permission)]


def confirmation_of(migration: BaseMigration | None) -> str:
    """What it wants confirmed before it is launched; empty: nothing."""
    try:
        return migration.confirmation if migration else ""
    except MassMigrationError:  # launching says so, and does nothing
        return ""


def find(key: str, db_alias: str, *, is_history: bool = False) -> Target:
    """Answer 404 where there is neither a file nor a record, nor, for its history, an event."""
    found = look(key, db_alias)
    migration = store.by_key.get(key)
    error = str(store.errors[key]) if migration is None and key in store.errors else ""
    if found is None and migration is None and not error:
        events = Event.objects.using(db_alias).filter(key=key)
        if not (is_history and events.exists()):
            raise Http404(gettext("There is no such migration."))
    return Target(key=key, db_alias=db_alias, migration=migration, file_error=error, look=found)


def statuses(keys: list[str], db_alias: str) -> dict[str, str]:
    """The statuses of those that have a record."""
    return dict(MigrationRecord.objects.using(db_alias).filter(key__in=keys).values_list("key", "status"))
