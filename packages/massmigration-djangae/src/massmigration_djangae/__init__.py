"""Backends that run the jobs of massmigration through Google Cloud Tasks."""

from __future__ import annotations

from massmigration_djangae.app_engine import DjangaeBackend
from massmigration_djangae.backend import CloudTasksBackend

__all__ = ["CloudTasksBackend", "DjangaeBackend"]
