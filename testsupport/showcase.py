"""Migrations in every state that the pages can show."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import User
from django.db.models import F
from django.utils import timezone

from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.migrations import Detail, MapperMigration, MigrationAction, SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.operations import DeleteModelData, OperationsMigration
from massmigration.recorder import attempts
from massmigration.states import Status
from testsupport.testapp.models import Item

RUNNING, STUCK, PAUSED, FAILED = "shop:0004_slugs", "shop:0005_sizes", "shop:0006_prices", "shop:0007_addresses"
READY, BLOCKED, APPLIED, CANCELLED, FAKED = (
    "shop:0008_search_keys",
    "shop:0009_thumbnails",
    "shop:0001_countries",
    "shop:0003_old_stock",
    "shop:0002_currencies",
)
EMPTYING = "shop:0010_empty_baskets"
WAITING = "shop:0011_new_categories"
GONE, BROKEN = "billing:0001_vat_numbers", "billing:0002_invoices"

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/massmigrations/0007_addresses.py", line 14, in operation
    obj.postcode = POSTCODE.search(obj.address)[0]
TypeError: 'NoneType' object is not subscriptable
"""


class Slugs(MapperMigration):
    """Gives every product a slug made of its name."""

    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.slug = obj.name.lower().replace(" ", "-")


class Once(SimpleMigration):
    """Sums the stock up for each country."""

    def operation(self, db_alias):
        pass


class Emptying(OperationsMigration):
    """Deletes the baskets that nobody came back for."""

    operations = [DeleteModelData(Item)]


class Categories(Slugs):
    """Gives every product its new category, and publishes the categories when somebody has looked at them."""

    def get_stages(self):
        return [
            *super().get_stages(),
            self.wait("Are the new categories good? The next stage shows them to customers."),
            self.once(self.publish),
        ]

    def publish(self, db_alias):
        pass

    def get_details(self, db_alias):
        return [
            Detail(label="Products without a category", value=17, level="warning"),
            Detail(label="Compared with the old shop", value=_ago(minutes=4), level="success"),
        ]

    def get_actions(self, db_alias, status):
        return [
            MigrationAction(
                name="compare",
                label="Compare again",
                description="Compares the categories with the old shop. This takes a minute and changes nothing.",
                call=self.compare,
            )
        ]

    def compare(self, db_alias, actor):
        return "17 products differ."


@contextlib.contextmanager
def shown(db_alias: str) -> Iterator[None]:
    """Create migrations, their records on this database, and a superuser `admin`, while the block lasts."""
    User.objects.create_superuser("admin", password="admin")
    Item.objects.using(db_alias).bulk_create(Item(name=f"Product {n}") for n in range(300))
    migrations = [_made(Once, APPLIED), _made(Once, FAKED)]
    migrations += [_made(Slugs, key) for key in (CANCELLED, RUNNING, STUCK, PAUSED, FAILED, READY)]
    migrations.append(_made(Slugs, BLOCKED, dependencies=[("shop", "0007_addresses")]))
    migrations += [_made(Emptying, EMPTYING), _made(Categories, WAITING)]
    errors = dict(store.errors)
    with store.registered(*migrations):
        store.errors[BROKEN] = BadMigrationFile(
            "billing/massmigrations/0002_invoices.py cannot be imported: ImportError: cannot import name 'Invoice' "
            "from 'billing.models'"
        )
        _records(db_alias)
        try:
            yield
        finally:
            store.errors = errors


def advance(db_alias: str, rows: int) -> None:
    """Let a worker make a checkpoint at what runs."""
    mine = ShardRecord.objects.using(db_alias).filter(record_id=RUNNING, index=1)
    mine.update(processed=F("processed") + rows, heartbeat_at=timezone.now(), lease_until=_ago(minutes=-1))


def renew(db_alias: str) -> None:
    """Let the workers renew the leases of what runs."""
    held = ShardRecord.objects.using(db_alias).filter(record_id=RUNNING, lease_until__isnull=False)
    held.update(heartbeat_at=_ago(seconds=1), lease_until=_ago(minutes=-1))


def _made(base: Any, key: str, **attributes: Any) -> Any:
    app_label, name = key.split(":")
    return type("Migration", (base,), {"__doc__": base.__doc__, "__module__": __name__, **attributes})(app_label, name)


def _ago(**parts: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(**parts)


def _record(db_alias: str, key: str, status: Status, **fields: Any) -> MigrationRecord:
    fields = {"launched_by": "ann", "launched_at": _ago(hours=3), "started_at": _ago(hours=3), **fields}
    record = MigrationRecord.objects.using(db_alias).create(key=key, status=status, is_planned=True, **fields)
    for hours, verb, before, after in ((3, "launch", "", "queued"), (2.9, "plan", "", "running")):
        _event(record, verb, before, after, at=_ago(hours=hours), actor="ann" if verb == "launch" else "")
    return record


def _event(record: Any, verb: str, before: str, after: str, *, actor: str = "", **fields: Any) -> None:
    fields = {"at": timezone.now(), "source": "page" if actor else "", **fields}
    Event.objects.using(record._state.db).create(
        key=record.key,
        attempt_id=record.attempt_id,
        verb=verb,
        actor=actor,
        from_status=before,
        to_status=after,
        **fields,
    )


def _shard(record: Any, index: int, processed: int, **fields: Any) -> None:
    cursor = [index * 250_000 + processed] if processed else None
    ShardRecord.objects.using(record._state.db).create(
        **{
            "record": record,
            "attempt_id": record.attempt_id,
            "stage": 0,
            "index": index,
            "lower": [index * 250_000],
            "upper": [(index + 1) * 250_000],
            "cursor": cursor,
            "processed": processed,
            "worker": f"worker-{index}.internal:4242:MainThread",
            **fields,
        }
    )


def _records(db_alias: str) -> None:
    _record(db_alias, APPLIED, Status.APPLIED, finished_at=_ago(hours=2, minutes=50))
    _record(
        db_alias,
        FAKED,
        Status.APPLIED,
        finished_at=_ago(days=3),
        was_faked=True,
        launched_by="",
        launched_at=None,
        started_at=None,
    )
    _record(
        *(db_alias, GONE, Status.APPLIED),
        launched_at=_ago(days=300, hours=2),
        started_at=_ago(days=300, hours=2),
        finished_at=_ago(days=300),
    )
    cancelled = _record(db_alias, CANCELLED, Status.CANCELLED, total=1000, finished_at=_ago(hours=1))
    _shard(cancelled, 0, 420)
    paused = _record(db_alias, PAUSED, Status.PAUSED, total=1_000_000)
    _shard(paused, 0, 250_000, is_done=True)
    _shard(paused, 1, 121_500)
    _event(paused, "pause", "running", "paused", actor="bob")
    waiting = _record(db_alias, WAITING, Status.WAITING, stage=1, waiting_since=_ago(minutes=47))
    MigrationRecord.objects.using(db_alias).filter(key=WAITING).update(is_planned=False)
    _shard(waiting, 0, 300, changed=300, is_done=True)
    _event(waiting, "wait", "running", "waiting", detail="Are the new categories good?", at=_ago(minutes=47))
    running = _record(db_alias, RUNNING, Status.RUNNING, total=1_000_000, is_total_estimated=True)
    held = {"heartbeat_at": _ago(seconds=1), "lease_until": _ago(minutes=-1)}
    _shard(running, 0, 250_000, is_done=True, heartbeat_at=_ago(minutes=4))
    _shard(running, 1, 171_300, **held)
    _shard(running, 2, 98_420, skipped=3, **held)
    _shard(running, 3, 0)
    stuck = _record(db_alias, STUCK, Status.RUNNING, total=500_000)
    _shard(stuck, 0, 100_000, heartbeat_at=_ago(minutes=6), lease_until=_ago(minutes=5))
    _shard(stuck, 1, 250_000, is_done=True, heartbeat_at=_ago(minutes=9))
    failed = _record(
        db_alias, FAILED, Status.FAILED, total=300, finished_at=_ago(minutes=30), last_error="43 failed objects"
    )
    _shard(failed, 0, 257, failed=43, is_done=True)
    _event(failed, "failed", "running", "failed", detail="43 failed objects")
    _failures(failed)


def _failures(record: Any) -> None:
    db_alias = record._state.db
    pks = list(Item.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))
    FailedObject.objects.using(db_alias).bulk_create(
        FailedObject(
            record=record,
            attempt_id=record.attempt_id,
            stage=0,
            shard=0,
            object_pk=[pk],
            is_behind_cursor=True,
            exception_class="builtins.TypeError" if number < 40 else "django.db.utils.DataError",
            message="'NoneType' object is not subscriptable" if number < 40 else f"value too long: {pk}",
            traceback=TRACEBACK if number < 40 else "Traceback <b>with HTML</b>",
            fingerprint=("a" if number < 40 else "b") * 64,
            failed_at=_ago(minutes=60 - number),
        )
        for number, pk in enumerate(pks[:44])
    )
    one = FailedObject.objects.using(db_alias).filter(record=record).order_by("pk").values_list("pk", flat=True)[0]
    choice = attempts.chosen(db_alias, record.key, [one], None)
    attempts.resolve(db_alias, record.key, choice, reason="A test customer; the row goes away.", actor="ann")
