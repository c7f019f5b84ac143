"""Records on a document database: their base class, their keys, and entities that hold their long texts."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.apps.registry import Apps
from django.db import models

from massmigration.dialects import is_document_database
from massmigration.documents import session
from massmigration.paging.querysets import all_rows


class LongText(models.Model):
    """One long text: an attribute of one record."""

    key = models.CharField(max_length=255, primary_key=True)
    text = models.TextField()

    class Meta:
        apps = Apps()  # SQL databases have no table for it
        app_label = "massmigration"
        managed = False
        db_table = "massmigration_text"

    def __str__(self) -> str:
        return self.key


def write_text(row: models.Model, name: str, text: str, db_alias: str) -> None:
    """Write an attribute's text, in place of the present one."""
    LongText(key=_key(row, name), text=text).save(using=db_alias)


def read_text(row: models.Model, name: str, db_alias: str) -> str:
    """Return an attribute's text, or an empty string."""
    found = _of(row, name, db_alias).first()
    return found.text if found else ""


def delete_text(row: models.Model, name: str, db_alias: str) -> None:
    """Delete an attribute's text, if it exists."""
    _of(row, name, db_alias)._raw_delete(db_alias)


def _of(row: models.Model, name: str, db_alias: str) -> models.QuerySet[Any]:
    return all_rows(LongText, db_alias).filter(key=_key(row, name)).order_by()


def _key(row: models.Model, name: str) -> str:
    return f"{row._meta.model_name}-{row.pk}-{name}"


KEY_BITS = 52
"""The largest size of an integer key in the emulator of Datastore, and of the keys that gcloudc makes."""

EPOCH = 1_735_689_600_000_000
"""The year 2025, in microseconds since 1970. With two random bits per key, the keys last until 2060."""

_last = 0
_lock = threading.Lock()


class DocumentRecord(models.Model):
    """Base class of the records, with what a document database needs of them."""

    indexed: Sequence[str] = ()
    """The attributes by which a document database finds rows: the first of each index, and relations."""

    long_texts: Sequence[str] = ()
    """The attributes that a document database keeps in entities of their own, which are read on access."""

    max_lengths: Mapping[str, int] = {}
    """The number of characters of other texts that a document database keeps."""

    class Meta:
        abstract = True

    @classmethod
    def keys_among(cls, exact: dict[str, Any]) -> list[Any] | None:
        """Return the keys that rows with these values can have. None: the values do not determine a key."""
        return None

    @property
    def is_v03_entity(self) -> bool:
        """Return whether this is an entity of django-mass-migration 0.3.x: of the same kind, with other properties."""
        return False

    def convert_v03_entity(self, db_alias: str) -> None:
        """Convert this entity of django-mass-migration, also in the database."""

    def make_key(self) -> None:
        """Set the key that the row has on a document database, unless it has one."""

    def save_document(self, *args: Any, **kwargs: Any) -> None:
        """Save the record on a document database. Takes the arguments of `save_base`."""
        using = kwargs["using"]
        self._state.db = using
        rows: Any = type(self)._default_manager.using(using)
        for field in self._meta.concrete_fields:
            given = getattr(self, field.attname)
            if hasattr(given, "resolve_expression"):
                setattr(self, field.attname, rows.value_of(given, self))
        self.make_key()
        session.remember(self, using)
        whole = {name: self.__dict__[name] for name in (*self.long_texts, *self.max_lengths) if name in self.__dict__}
        for name, value in whole.items():
            setattr(self, name, self.stored_value(name, value))
        super().save_base(*args, **kwargs)
        for name, value in whole.items():
            setattr(self, name, value)
        self.write_long_texts(whole, using)

    def stored_value(self, name: str, value: Any) -> Any:
        """Return the part of an attribute's value that the row's own entity keeps."""
        if name in self.long_texts:
            return ""
        return value[: self.max_lengths[name]] if name in self.max_lengths else value

    def write_long_texts(self, values: Mapping[str, Any], db_alias: str) -> None:
        """Write the values that are kept in entities of their own."""
        for name in self.long_texts:
            if name in values:
                write_text(self, name, values[name], db_alias)

    def delete_long_texts(self, db_alias: str) -> None:
        """Delete the entities of the attributes that are kept apart."""
        for name in self.long_texts:
            delete_text(self, name, db_alias)

    def defer_long_texts(self) -> None:
        """Defer the attributes that are kept apart, so that they are read on access."""
        for name in self.long_texts:
            if not self.__dict__.get(name):
                self.__dict__.pop(name, None)

    def refresh_from_db(  # type: ignore[override]  # an argument that came with Django 5.1 is passed on
        self, using: str | None = None, fields: Iterable[str] | None = None, **kwargs: Any
    ) -> None:
        db_alias = using or self._state.db
        names = list(fields or ())
        if db_alias and names and {*names} <= {*self.long_texts} and is_document_database(db_alias):
            for name in names:
                setattr(self, name, read_text(self, name, db_alias))
            return
        super().refresh_from_db(using=using, fields=fields, **kwargs)


def key_of(parts: Sequence[Any]) -> int:
    """Return a key made from values that no two rows share. It is never 0, which Datastore refuses."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 64 - KEY_BITS or 1


def next_key() -> int:
    """Return a key greater than all previous keys of this process, and of others if their clocks agree."""
    global _last
    with _lock:
        made = (time.time_ns() // 1000 - EPOCH << 2) + secrets.randbits(2)
        _last = max(made, _last + 1)
        return _last
