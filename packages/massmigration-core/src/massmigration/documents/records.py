"""The base of the records, and the keys that they have in a database of documents."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from django.db import models

from massmigration.documents import session
from massmigration.documents.querysets import RecordManager
from massmigration.stores import is_of_documents

KEY_BITS = 52
"""The emulator of Datastore takes no larger integers for keys; gcloudc makes none."""

BEGINNING = 1_735_689_600_000_000
"""The year 2025, in microseconds since 1970; two bits more, and the keys last until 2060."""

_last = 0
_lock = threading.Lock()


class Record(models.Model):
    """A row of the bookkeeping, wherever it is kept."""

    group: str = ""
    """The attribute by which a database of documents finds rows that belong together; it is indexed."""

    is_asked_for_later = False
    """Is a group asked for in the transaction that has written one of its rows by its key?"""

    objects = RecordManager()

    class Meta:
        abstract = True

    @property
    def group_value(self) -> Any:
        return getattr(self, self.group) if self.group else None

    @classmethod
    def keys_among(cls, exact: dict[str, Any]) -> list[Any] | None:
        """The only key that rows with these values can have; None where they do not tell."""
        return None

    def make_key(self) -> None:
        """Set the key that the row is to have in a database of documents, unless it has one."""

    def save_base(self, *args: Any, **kwargs: Any) -> None:
        using = kwargs.get("using")
        if using and is_of_documents(using):
            rows: Any = type(self).objects.using(using)
            for field in self._meta.concrete_fields:
                given = getattr(self, field.attname)
                if hasattr(given, "resolve_expression"):
                    setattr(self, field.attname, rows.value_of(given, self))
            self.make_key()
            session.note(self, using, self.group_value)
        super().save_base(*args, **kwargs)


def key_of(parts: Sequence[Any]) -> int:
    """A key made of values that no two rows share; never 0, which Datastore does not take."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 64 - KEY_BITS or 1


def next_key() -> int:
    """A key that is greater than those before it: of this process, and of others but for their clocks."""
    global _last
    with _lock:
        made = (time.time_ns() // 1000 - BEGINNING << 2) + secrets.randbits(2)
        _last = max(made, _last + 1)
        return _last
