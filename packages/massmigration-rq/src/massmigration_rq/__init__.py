"""A backend that runs the jobs of massmigration on RQ workers."""

from typing import Any

from massmigration_rq.workers import RecoveryMixin, SimpleWorker, Worker

__all__ = ["RQBackend", "RecoveryMixin", "SimpleWorker", "Worker"]


def __getattr__(name: str) -> Any:
    """Import the backend on first access: workers import this package before Django is set up."""
    if name != "RQBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from massmigration_rq.backend import RQBackend

    return RQBackend
