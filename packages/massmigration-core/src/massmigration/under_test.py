"""Tells whether this process runs tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def in_tests() -> bool:
    """Whether pytest or Django's test runner is at work, here or in the process that started this one for a test."""
    return _is_pytest() or _is_test_environment() or _is_test_command(sys.argv)


def _is_pytest() -> bool:
    # Both are pytest's own; the first is there in every version, but only while a test runs.
    return "PYTEST_CURRENT_TEST" in os.environ or "PYTEST_VERSION" in os.environ


def _is_test_environment() -> bool:
    """Whether `setup_test_environment()` has been called, as every Django test runner does, in its processes too."""
    # If nobody has imported it, nobody has called it; importing it here would load the test client in production.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def _is_test_command(argv: list[str]) -> bool:
    """Whether this is `manage.py test`, before the runner has been made: while apps are loaded."""
    program = Path(argv[0]) if argv else Path()
    is_django = program.name in {"manage.py", "django-admin"} or program.parts[-2:] == ("django", "__main__.py")
    return is_django and argv[1:2] == ["test"]
