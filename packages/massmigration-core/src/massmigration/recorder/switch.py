"""The switch that pauses everything on a database: no batch, no claim and no stage starts while it is on."""

from __future__ import annotations

from django.db import IntegrityError

from massmigration.dialects import engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.models import PAUSE_ALL, MigrationRecord, Switch
from massmigration.recorder import events
from massmigration.recorder.shards import retried_on_contention
from massmigration.states import ACTIVE

EVERYTHING = "*"
"""The key of an event that is about all migrations of the database."""


def get(db_alias: str) -> Switch | None:
    """Return the switch if it is on, otherwise None."""
    return Switch.objects.using(db_alias).filter(name=PAUSE_ALL, is_on=True).first()


def turn(db_alias: str, *, on: bool, actor: str, reason: str = "") -> bool:
    """Turn the switch on or off. Return False if it is so already. Each active migration gets an event."""
    try:
        return _turn(db_alias, on=on, actor=actor, reason=reason)
    except IntegrityError:  # another process has inserted the row
        return _turn(db_alias, on=on, actor=actor, reason=reason)


@retried_on_contention
def _turn(db_alias: str, *, on: bool, actor: str, reason: str) -> bool:
    verb = "pause-all" if on else "resume-all"
    with engine_transaction(db_alias, durable=False):
        rows = Switch.objects.using(db_alias)
        given = {"is_on": on, "changed_at": DatabaseNow(), "changed_by": actor, "reason": reason}
        if not rows.filter(name=PAUSE_ALL).exists():
            if not on:
                return False
            Switch(name=PAUSE_ALL, **given).save(using=db_alias, force_insert=True)
        elif not rows.filter(name=PAUSE_ALL, is_on=not on).update(**given):
            return False
        events.add(db_alias, EVERYTHING, verb, actor=actor, detail=reason)
        active = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
        for key, attempt_id in active.order_by("key").values_list("key", "attempt_id"):
            events.add(db_alias, key, verb, attempt_id=attempt_id, actor=actor, detail=reason)
    return True
