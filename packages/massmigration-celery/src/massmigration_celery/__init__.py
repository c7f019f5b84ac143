"""Carries the jobs of massmigration to Celery."""

from __future__ import annotations

from massmigration_celery.backend import CeleryBackend

__all__ = ["CeleryBackend"]
