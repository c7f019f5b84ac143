"""A backend that runs the jobs of massmigration on Celery workers."""

from __future__ import annotations

from massmigration_celery.backend import CeleryBackend

__all__ = ["CeleryBackend"]
