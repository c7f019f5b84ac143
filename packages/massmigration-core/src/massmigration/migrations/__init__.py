"""The base classes that migration files import; beside them, Django's schema migrations of our own tables."""

from __future__ import annotations

from massmigration.definitions.base import BaseMigration, MapperMigration, SimpleMigration, get_all_db_aliases
from massmigration.definitions.details import Detail, MigrationAction
from massmigration.definitions.stages import MappedStage, OnceStage, StageContext, WaitStage

__all__ = [
    "BaseMigration",
    "Detail",
    "MappedStage",
    "MapperMigration",
    "MigrationAction",
    "OnceStage",
    "SimpleMigration",
    "StageContext",
    "WaitStage",
    "get_all_db_aliases",
]
