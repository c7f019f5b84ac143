"""The old path of django-mass-migration's backend, which is now in the package massmigration-djangae."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from massmigration.exceptions import BadBackend


def __getattr__(name: str) -> Any:
    """Import the class on first access: the core does not require the package."""
    if name != "DjangaeBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_string("massmigration_djangae.DjangaeBackend")
    except ImportError as error:
        raise BadBackend(
            f"The backend '{__name__}.{name}' cannot be imported ({error}). It is now in a separate package. "
            "Run: pip install massmigration-djangae"
        ) from error
