"""Times in the database: `UtcDateTimeField` stores them in UTC, and `DatabaseNow` is the time of the server."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func
from django.utils import timezone

from massmigration.dialects import dialect_for

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_MICROSECONDS = 1_000_000

_Sql = tuple[str, tuple[str | int, ...]]


class UtcDateTimeField(DateTimeField):  # type: ignore[type-arg]
    """A time that is stored in UTC and read as an aware time, whatever the settings for time zones are.

    Without a column type for aware times, Django's `DateTimeField` stores a time in a time zone of the settings. Times
    from before a change of that setting, or from the hour that repeats in autumn, could then not be compared.
    With `USE_TZ = False`, a time that is read has the offset that the project's time zone had at that time.
    """

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if isinstance(value, dt.datetime) and timezone.is_naive(value):  # from a project with USE_TZ = False
            value = timezone.make_aware(value, timezone.get_default_timezone())
        return value

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        value = value if prepared else self.get_prep_value(value)
        if isinstance(value, dt.datetime):
            value = value.astimezone(dt.timezone.utc)
            if not dialect_for(connection).keeps_time_zones:
                value = value.replace(tzinfo=None)
        return connection.ops.adapt_datetimefield_value(value)

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """Return the SQL that selects the column."""
        return dialect_for(compiler.connection).select_time(sql), params

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> dt.datetime | None:
        if value is None:
            return None
        if isinstance(value, (Decimal, float)):
            value = _EPOCH + dt.timedelta(microseconds=round(value * _MICROSECONDS))
        else:
            value = dialect_for(connection).read_time(value)
        return _as_shown(value)


def _as_shown(value: dt.datetime) -> dt.datetime:
    """Return a time in UTC; without `USE_TZ`, in the project's time zone, since nothing converts it for display.

    The offset is fixed: Python compares two times of one time zone by their wall clocks.
    """
    if settings.USE_TZ:
        return value.astimezone(dt.timezone.utc)
    local = value.astimezone(timezone.get_default_timezone())
    return local.replace(tzinfo=dt.timezone(local.utcoffset() or dt.timedelta(0)), fold=0)


class DatabaseNow(Func):
    """The server's time in UTC plus an offset, for filters, updates and inserts of a `UtcDateTimeField`."""

    arity = 0
    output_field = UtcDateTimeField()

    def __init__(self, offset: dt.timedelta = dt.timedelta(0), **extra: Any) -> None:
        self.offset = offset
        super().__init__(**extra)

    def as_sql(  # type: ignore[override]  # takes no function, template or joiner
        self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any
    ) -> _Sql:
        return f"(CURRENT_TIMESTAMP + INTERVAL '{self._seconds}' SECOND)", ()

    def as_postgresql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> _Sql:
        return f"(STATEMENT_TIMESTAMP() + INTERVAL '{self._seconds} seconds')", ()

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> _Sql:
        return f"(UTC_TIMESTAMP(6) + INTERVAL {self._seconds} SECOND)", ()

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> _Sql:
        return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '{self._seconds} seconds')", ()

    @property
    def _seconds(self) -> str:
        return f"{self.offset.total_seconds():+.6f}"
