"""Carries the jobs of massmigration to RQ."""

from typing import Any

__all__ = ["RQBackend"]


def __getattr__(name: str) -> Any:
    """Import the backend when it is asked for: workers import this package before Django is ready."""
    if name != "RQBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from massmigration_rq.backend import RQBackend

    return RQBackend
