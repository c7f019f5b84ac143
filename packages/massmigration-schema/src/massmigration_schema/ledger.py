"""Access to the ledger. No other module reads or writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from massmigration_schema.exceptions import Refused
from massmigration_schema.models import OnlineChange
from massmigration_schema.plan import ChangePlan


def get(db_alias: str, key: str) -> OnlineChange | None:
    """Return the row of a change, or None if it was never begun."""
    return OnlineChange.objects.using(db_alias).filter(key=key).first()


def require(db_alias: str, key: str) -> OnlineChange:
    """Return the row of a change. Raise `Refused` if it was never begun, or was aborted."""
    found = get(db_alias, key)
    if found is None:
        raise Refused(
            "online.not_started", f"Online change {key!r} has not begun on database {db_alias!r}, or was aborted."
        )
    return found


def begin(db_alias: str, plan: ChangePlan, *, server_id: str, definition: dict[str, Any]) -> OnlineChange:
    """Insert the row of a change, or return the one that is there. Raise `Refused` if the table has another change."""
    try:
        with transaction.atomic(using=db_alias):
            change, _ = OnlineChange.objects.using(db_alias).get_or_create(
                key=plan.key,
                defaults={
                    "table": plan.table,
                    "active_table": plan.table,
                    "tag": plan.tag,
                    "plan": plan.to_json(),
                    "fingerprint": plan.fingerprint,
                    "server_id": server_id,
                    "definition": definition,
                    "started_at": timezone.now(),
                },
            )
    except IntegrityError as error:
        other = busy_with(db_alias, plan.table)
        raise Refused("online.busy_table", f"Table {plan.table!r} is being changed by {other!r} already.") from error
    return change


def busy_with(db_alias: str, table: str) -> str | None:
    """Return the key of the change that a table has now, or None."""
    found = OnlineChange.objects.using(db_alias).filter(active_table=table).values_list("key", flat=True).first()
    return None if found is None else str(found)


def run_step(db_alias: str, key: str, name: str, call: Callable[[], None]) -> bool:
    """Run a step unless it is done. Return whether it was run. The ledger names it before it is run, and after it."""
    change = require(db_alias, key)
    if name in change.steps:
        return False
    _update(db_alias, key, step=name)
    call()
    _update(db_alias, key, steps={**require(db_alias, key).steps, name: timezone.now().isoformat()})
    return True


def keep_triggers(db_alias: str, key: str, texts: dict[str, str]) -> None:
    """Store the triggers as they were made, so that a change of them is found."""
    _update(db_alias, key, triggers=texts)


def add_differences(db_alias: str, key: str, count: int, *, is_last: bool) -> None:
    """Add the rows that a batch of the first or the last verification has found."""
    name = "differences_left" if is_last else "differences"
    _update(db_alias, key, **{name: models.F(name) + count})


def record_verified(db_alias: str, key: str) -> None:
    """Record that the last verification has found nothing."""
    _update(db_alias, key, verified_at=timezone.now(), differences_left=0)


def keep_comparison(db_alias: str, key: str, last: list[Any], found: int) -> None:
    """Record how far the comparison is that runs while the change waits, and what it has found."""
    _update(db_alias, key, comparison={"last": last, "found": found})


def end_comparison(db_alias: str, key: str, found: int) -> None:
    """Record the end of this comparison. If it has found something, the tables count as not compared."""
    if not found:
        record_verified(db_alias, key)
    else:
        _update(db_alias, key, verified_at=None, differences=models.F("differences") + found)
    _update(db_alias, key, comparison={})


def record_swapped(db_alias: str, key: str, *, triggers: dict[str, str]) -> None:
    """Record the swap. The table may have another change from now on, unless it has triggers of the way back."""
    OnlineChange.objects.using(db_alias).filter(key=key, swapped_at=None).update(
        swapped_at=timezone.now(), triggers=triggers, active_table=models.F("active_table") if triggers else None
    )


def record_reverted(db_alias: str, key: str) -> None:
    """Record that the old table is in its place again."""
    OnlineChange.objects.using(db_alias).filter(key=key, reverted_at=None).update(reverted_at=timezone.now())


def record_cleaned(db_alias: str, key: str) -> None:
    """Record that nothing of the change is left in the database."""
    _update(db_alias, key, cleaned_at=timezone.now(), active_table=None)


def forget(db_alias: str, key: str) -> None:
    """Delete the row of a change that was aborted."""
    OnlineChange.objects.using(db_alias).filter(key=key).delete()


def keys(db_alias: str, beginning: str) -> list[str]:
    """Return the keys of the changes that begin so."""
    found = OnlineChange.objects.using(db_alias).filter(key__startswith=beginning).values_list("key", flat=True)
    return list(found)


def tags(db_alias: str) -> set[str]:
    """Return the tags of the changes that may have something in the database."""
    found = OnlineChange.objects.using(db_alias).filter(cleaned_at=None).values_list("tag", flat=True)
    return set(found)


def _update(db_alias: str, key: str, **fields: Any) -> None:
    OnlineChange.objects.using(db_alias).filter(key=key).update(**fields)
