"""`DocumentDialect`: document databases, which are Datastore and Firestore through gcloudc."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from massmigration.dialects.base import Dialect
from massmigration.dialects.writer import Fields

MAX_ENTITIES = 500
MAX_BYTES = 7 * 2**19
"""Limits of one transaction. Google allows 500 entities and 10 MiB, its emulators 4 MB; sizes are estimates."""


class DocumentDialect(Dialect):
    """Datastore and Firestore: without SQL, conditional UPDATE, row locks, savepoints, or a clock to be queried."""

    has_sql = False
    supports_savepoints = False
    waits_for_locks = False
    reads_block_writes = True
    max_transaction_writes = MAX_ENTITIES
    max_batch_size = 200  # an object can write two entities and stay within the limit

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        self.keeps_time_zones = settings.USE_TZ

    def write_table(self, model: Any, objects: Sequence[Model], fields: Fields) -> int:
        return sum(self.write_row(model, obj, fields) for obj in objects)

    def has_table(self, table: str) -> bool:
        return True  # a kind comes into being with its first entity
