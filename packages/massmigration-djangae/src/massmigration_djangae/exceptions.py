"""The exceptions of this package."""

from __future__ import annotations

from massmigration.exceptions import MassMigrationError


class QueueRefused(MassMigrationError):
    """Cloud Tasks refused a request."""


class NotAuthentic(MassMigrationError):
    """An HTTP request does not come from the project's queue."""
