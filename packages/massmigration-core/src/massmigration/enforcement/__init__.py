"""Protection of code that needs the data of a migration: decorators, a mixin and `ensure_migrated`."""

from massmigration.enforcement.decorators import APPLIED_MIGRATIONS_CACHE as APPLIED_MIGRATIONS_CACHE
from massmigration.enforcement.decorators import (
    RequiresMigrationMixin,
    get_migration_key,
    migration_is_applied,
    requires_migration,
    retry_until_migrated,
    view_requires_migration,
)
from massmigration.enforcement.objects import aensure_migrated, ensure_migrated

__all__ = [
    "RequiresMigrationMixin",
    "aensure_migrated",
    "ensure_migrated",
    "get_migration_key",
    "migration_is_applied",
    "requires_migration",
    "retry_until_migrated",
    "view_requires_migration",
]
