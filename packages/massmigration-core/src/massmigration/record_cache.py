"""Remembers which migrations are applied, so that code which asks all the time costs no queries."""

from __future__ import annotations

import datetime as dt
from time import monotonic

from django.db import OperationalError, ProgrammingError, connections
from django.db.models.signals import post_migrate
from django.dispatch import receiver

from massmigration.conf import settings
from massmigration.exceptions import RecordsUnreadable
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.under_test import in_tests

applied: dict[tuple[str, str], float] = {}
"""When a migration was last seen to be applied, by its key and database. Nothing but "applied" is remembered.

Reading and writing one entry are atomic, so that threads need no lock.
"""


def is_known(key: str, db_alias: str) -> bool:
    """Whether a migration is remembered as applied; costs no query."""
    seen_at = applied.get((key, db_alias))
    return seen_at is not None and monotonic() - seen_at < cache_timeout()


def is_applied(key: str, db_alias: str) -> bool:
    """Whether a migration is applied, from memory if possible. Raise `RecordsUnreadable` without its table."""
    return is_known(key, db_alias) or read_status(key, db_alias) == Status.APPLIED


def read_status(key: str, db_alias: str) -> Status | None:
    """The status in the database; None without a record. Raise `RecordsUnreadable` without its table."""
    asked_at = monotonic()  # before the query: a record forgotten while it runs is not remembered for any longer
    records = MigrationRecord.objects.using(db_alias).filter(key=key)
    try:
        found = records.values_list("status", flat=True).first()
    except (ProgrammingError, OperationalError) as error:
        # Every database names the table that it misses; asking for its tables fails in a broken transaction.
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
    """Ask the database again. Other processes do so after `MASSMIGRATION_RECORD_CACHE_TIMEOUT`."""
    applied.pop((key, db_alias), None)


def clear() -> None:
    """Ask the database about everything again."""
    applied.clear()


@receiver(post_migrate)
def clear_after_migrate(**kwargs: object) -> None:
    """`flush` sends this signal too, and with it the tests that empty the database."""
    clear()


def _may_be_rolled_back(db_alias: str) -> bool:
    """In the transaction of a TestCase, what is seen is not there for the next test."""
    return connections[db_alias].in_atomic_block and in_tests()


# The names that django-mass-migration had.

DEFAULT_CACHE_TIMEOUT = 60


def cache_timeout() -> float:
    """`MASSMIGRATION_RECORD_CACHE_TIMEOUT` in seconds."""
    timeout = settings.RECORD_CACHE_TIMEOUT
    return timeout.total_seconds() if isinstance(timeout, dt.timedelta) else float(timeout)


def get_record(key: str, db_alias: str) -> MigrationRecord | None:
    """The record as it is now; None without one."""
    return MigrationRecord.objects.using(db_alias).filter(key=key).first()


def get_cache_key(migration_key: str, db_alias: str) -> str:
    """A text that stands for a record."""
    return f"massmigration_record:{migration_key}:{db_alias}"
