"""The base classes that migration files import; beside them, Django's schema migrations of our own tables."""

from __future__ import annotations

from massmigration.definitions.base import BaseMigration, get_all_db_aliases
from massmigration.definitions.mapper import MapperMigration
from massmigration.definitions.simple import SimpleMigration

__all__ = ["BaseMigration", "MapperMigration", "SimpleMigration", "get_all_db_aliases"]
