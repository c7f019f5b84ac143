"""Carries the jobs of massmigration to Celery."""

from __future__ import annotations

__all__: list[str] = []
