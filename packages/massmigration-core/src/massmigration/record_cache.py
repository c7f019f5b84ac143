"""A cache of which migrations are applied, so that decorated code makes no queries."""

from __future__ import annotations

import datetime as dt
import math
from time import monotonic

from django.db import OperationalError, ProgrammingError, connections
from django.db.models.signals import post_migrate
from django.dispatch import receiver

from massmigration.conf import is_running_tests, settings
from massmigration.exceptions import RecordsUnreadable
from massmigration.models import MigrationRecord
from massmigration.states import Status

applied: dict[tuple[str, str], float] = {}
"""When a migration was last seen to be applied, by its key and database. No other status is cached.

Reading and writing an entry are atomic, so that threads need no lock.
"""


def is_known(key: str, db_alias: str) -> bool:
    """Return whether the cache shows that a migration is applied. This makes no query."""
    seen_at = applied.get((key, db_alias))
    return seen_at is not None and monotonic() - seen_at < cache_timeout()


def is_applied(key: str, db_alias: str) -> bool:
    """Return whether a migration is applied, from the cache if possible.

    Raise `RecordsUnreadable` if the table of records does not exist.
    """
    return is_known(key, db_alias) or read_status(key, db_alias) == Status.APPLIED


def read_status(key: str, db_alias: str) -> Status | None:
    """Return the status in the database, or None without a record, and cache it if it is "applied".

    Raise `RecordsUnreadable` if the table of records does not exist.
    """
    asked_at = monotonic()  # before the query, so that a record deleted during the query is not cached for longer
    records = MigrationRecord.objects.using(db_alias).filter(key=key)
    try:
        found = records.values_list("status", flat=True).first()
    except (ProgrammingError, OperationalError) as error:
        # Every database names the missing table. A query for its tables would fail in a broken transaction.
        if MigrationRecord._meta.db_table not in str(error):
            raise
        raise RecordsUnreadable(
            f"The records of mass migrations on database {db_alias!r} cannot be read ({str(error).strip()}). "
            f"Run: manage.py migrate --database {db_alias}"
        ) from error
    if found == Status.APPLIED and not _may_be_rolled_back(db_alias):
        applied[key, db_alias] = asked_at
    return None if found is None else Status(found)


def forget(key: str, db_alias: str) -> None:
    """Remove a migration from this process's cache. Others expire after `MASSMIGRATION_RECORD_CACHE_TIMEOUT`."""
    applied.pop((key, db_alias), None)


def clear() -> None:
    """Empty this process's cache."""
    applied.clear()


@receiver(post_migrate)
def clear_after_migrate(**kwargs: object) -> None:
    """Empty the cache after `migrate` and `flush`, which tests use to empty the database."""
    clear()


def _may_be_rolled_back(db_alias: str) -> bool:
    """Return whether this is the transaction of a TestCase, which the next test does not see."""
    return connections[db_alias].in_atomic_block and is_running_tests()


# The names that django-mass-migration had.

DEFAULT_CACHE_TIMEOUT = 60


def cache_timeout() -> float:
    """Return `MASSMIGRATION_RECORD_CACHE_TIMEOUT` in seconds. None, as in Django's cache, means no limit."""
    timeout = settings.RECORD_CACHE_TIMEOUT
    if timeout is None:
        return math.inf
    return timeout.total_seconds() if isinstance(timeout, dt.timedelta) else float(timeout)


def get_record(key: str, db_alias: str) -> MigrationRecord | None:
    """Return the record from the database, or None."""
    return MigrationRecord.objects.using(db_alias).filter(key=key).first()


def get_cache_key(migration_key: str, db_alias: str) -> str:
    """Return a string that identifies a record."""
    return f"massmigration_record:{migration_key}:{db_alias}"
