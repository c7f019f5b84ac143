"""`Online`, the options of an online schema change."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from massmigration.exceptions import BadMigrationFile
from massmigration.throttling import CompletedBatch
from massmigration_schema.locks import LockLimits

STRATEGIES = ("auto", "shadow", "direct")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Online:
    """The options of an `OnlineMigration`. Raise `BadMigrationFile` for an impossible value."""

    strategy: str = "auto"
    """`"auto"`: alter the table directly if no operation rewrites it or blocks its writers. `"direct"`: always alter
    the table directly. `"shadow"`: never do that to a table of more than `direct_up_to` rows."""

    direct_up_to: int = 10_000
    """The number of rows up to which `migrate` alters the table directly, whatever the operations are."""

    lock_patience: dt.timedelta = dt.timedelta(seconds=60)
    """How long a statement that needs the lock of the whole table is tried again."""

    max_stall: dt.timedelta = dt.timedelta(seconds=1)
    """How long one try may wait for that lock. Everybody who uses the table waits behind it."""

    batch_duration: dt.timedelta = dt.timedelta(milliseconds=100)
    """The target duration of a batch of the copy. A writer of one of its rows waits for the batch at worst."""

    max_batch_size: int = 2_000
    """The maximum number of rows in a batch of the copy."""

    nice: float = 0.5
    """After each batch of the copy, a worker waits this share of its duration."""

    throttle: Sequence[Callable[[CompletedBatch], dt.timedelta | None]] = ()
    """Throttles of the copy, in addition to the setting's."""

    transforms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of fields that no operation gives: by the name of a new field, an expression over the old model."""

    max_differences: int = 100
    """The number of rows that the first verification may find to differ. They are repaired."""

    cutover: str = "manual"
    """`"manual"`: wait for a person before the swap. `"auto"`: swap as soon as the tables are equal."""

    reverse_sync: bool = False
    """Whether triggers keep the old table current after the swap, so that `revert` loses nothing."""

    keep_old: dt.timedelta = dt.timedelta(days=7)
    """How long the old table is kept after the swap."""

    @property
    def limits(self) -> LockLimits:
        """How long the lock of the whole table is requested."""
        return LockLimits(patience=self.lock_patience, max_stall=self.max_stall)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            allowed = ", ".join(map(repr, STRATEGIES))
            raise BadMigrationFile(f"Online(strategy={self.strategy!r}); allowed: {allowed}.")
        if self.cutover not in ("manual", "auto"):
            raise BadMigrationFile(f"Online(cutover={self.cutover!r}); allowed: 'manual', 'auto'.")
        for name, least in (("direct_up_to", 0), ("max_batch_size", 1), ("max_differences", 0)):
            rows: Any = getattr(self, name)
            if not isinstance(rows, int) or isinstance(rows, bool) or rows < least:
                raise BadMigrationFile(f"Online({name}={rows!r}); it must be a number of rows, {least} or more.")
        if not isinstance(self.reverse_sync, bool):
            raise BadMigrationFile(f"Online(reverse_sync={self.reverse_sync!r}); allowed: True, False.")
        nice: Any = self.nice
        if not isinstance(nice, (int, float)) or isinstance(nice, bool) or nice < 0:
            raise BadMigrationFile(f"Online(nice={nice!r}); it must be a number, 0 or more.")
        if not isinstance(self.throttle, (list, tuple)) or not all(map(callable, self.throttle)):
            raise BadMigrationFile(f"Online(throttle={self.throttle!r}); it must be a list of callables.")
        if not isinstance(self.transforms, dict) or not all(
            isinstance(name, str) and hasattr(each, "resolve_expression") for name, each in self.transforms.items()
        ):
            raise BadMigrationFile(
                f"Online(transforms={self.transforms!r}); it must be a dict of expressions, such as F() or Value(), by "
                "the name of a field."
            )
        if self.transforms and self.strategy == "direct":
            raise BadMigrationFile(
                'Online(transforms=…, strategy="direct"): transforms write every row. Allowed with them: '
                "strategy='auto', 'shadow'."
            )
        for name in ("batch_duration", "lock_patience", "max_stall", "keep_old"):
            value: Any = getattr(self, name)
            if not isinstance(value, dt.timedelta) or value <= dt.timedelta(0):
                raise BadMigrationFile(f"Online({name}={value!r}); it must be a timedelta greater than 0.")
