"""Carries the jobs of massmigration to Google Cloud Tasks."""

from __future__ import annotations

__all__: list[str] = []
