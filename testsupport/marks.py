"""Marks that the tests of several packages use."""

import pytest

only_sqlite = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
"""Run a test on SQLite alone, because the result is the same on every database."""
