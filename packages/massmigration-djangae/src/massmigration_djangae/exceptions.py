"""What can go wrong between Django and Cloud Tasks."""

from __future__ import annotations

from massmigration.exceptions import MassMigrationError


class QueueRefused(MassMigrationError):
    """Cloud Tasks did not do what it was asked for."""


class NotAuthentic(MassMigrationError):
    """The request does not come from the project's queue."""
