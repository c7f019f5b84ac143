"""Where django-mass-migration had its backend, which is a package of its own now."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from massmigration.exceptions import BadBackend


def __getattr__(name: str) -> Any:
    """Import the class when it is asked for: the core does without the package."""
    if name != "DjangaeBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_string("massmigration_djangae.DjangaeBackend")
    except ImportError as error:
        raise BadBackend(
            f"The backend '{__name__}.{name}' cannot be imported ({error}). It is in a package of its own now. "
            "Run: pip install massmigration-djangae"
        ) from error
