"""The exceptions of this package. Each refusal has a code, such as `online.operation`, which does not change."""

from __future__ import annotations

from collections.abc import Sequence

from massmigration.exceptions import MassMigrationError


class OnlineError(MassMigrationError):
    """An online schema change cannot be made, or cannot continue."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(OnlineError):
    """The schema change cannot be made online as it stands."""


class RefusedForReasons(Refused):
    """The schema change cannot be made online, for one or more reasons."""

    def __init__(self, name: str, reasons: Sequence[Refused]) -> None:
        lines = [f"\n  {reason.code}: {reason}" for reason in reasons]
        super().__init__(reasons[0].code, f"{name} cannot be made online:{''.join(lines)}")
        self.reasons = list(reasons)


class LockNotGranted(OnlineError):
    """The lock of a whole table was not granted in any of the tries."""


class ConflictsLeft(OnlineError):
    """Rows of the table do not fit the new definition."""
