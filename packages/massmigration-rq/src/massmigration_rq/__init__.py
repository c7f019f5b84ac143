"""Carries the jobs of massmigration to RQ."""

from __future__ import annotations

__all__: list[str] = []
