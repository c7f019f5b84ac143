"""The database server's clock, so that the clocks of workers do not matter."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func

_Sql = tuple[str, tuple[str | int, ...]]


class DatabaseNow(Func):
    """The server's time, plus an offset. Usable in filters, updates and inserts.

    Unlike Django's `Now` it is in UTC on MySQL and MariaDB, as Django's own values are.
    """

    arity = 0
    output_field = DateTimeField()

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
        clock = "UTC_TIMESTAMP(6)" if settings.USE_TZ else "CURRENT_TIMESTAMP(6)"
        return f"({clock} + INTERVAL {self._seconds} SECOND)", ()

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any) -> _Sql:
        local = "" if settings.USE_TZ else ", 'localtime'"
        return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '{self._seconds} seconds'{local})", ()

    @property
    def _seconds(self) -> str:
        return f"{self.offset.total_seconds():+.6f}"
