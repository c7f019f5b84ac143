"""Every import path that projects may use: from django-mass-migration 0.3.x, and documented by this project."""

from importlib import import_module

import pytest
from django.urls import get_resolver

INHERITED = {
    "migrations": ["BaseMigration", "MapperMigration", "SimpleMigration", "get_all_db_aliases"],
    "enforcement": [
        "APPLIED_MIGRATIONS_CACHE",
        "get_migration_key",
        "migration_is_applied",
        "requires_migration",
        "view_requires_migration",
    ],
    "exceptions": [
        "CannotRunOnDB",
        "DbAliasNotAllowed",
        "DependentMigrationNotApplied",
        "MigrationAlreadyStarted",
        "MigrationError",
        "MigrationNotFound",
        "RequiredMigrationNotApplied",
    ],
    "api": [
        "can_start_migration",
        "get_all_migrations",
        "initiate_migration",
        "migration_is_applied",
        "migration_is_in_progress",
        "migration_was_started",
    ],
    "loader": [
        "is_valid_migration_id",
        "is_valid_migration_name",
        "load_migration",
        "migration_id_from_filename",
        "store",
    ],
    "record_cache": ["DEFAULT_CACHE_TIMEOUT", "cache_timeout", "get_cache_key", "get_record"],
    "models": ["MigrationRecord"],
    "backends.base": ["BackendBase"],
    "backends.djangae": ["DjangaeBackend"],
}

DOCUMENTED = {
    "api": ["launch", "pause", "resume", "cancel", "retry", "restart", "fake", "forget", "status"],
    "conf": ["settings"],
    "exceptions": ["MassMigrationError"],
    "signals": ["migration_failed"],
    "models": ["Event", "FailedObject", "MigrationRecord", "ShardRecord"],
    "states": ["Status"],
    "progress": ["read"],
    "throttling": ["MaxRowsPerSecond"],
    "gates": ["RequireMassMigration"],
    "enforcement": ["RequiresMigrationMixin", "aensure_migrated", "ensure_migrated", "retry_until_migrated"],
    "operations": [
        "AddFieldData",
        "CopyFieldData",
        "CopyModelData",
        "CopyModelDataToNamespace",
        "DataOperation",
        "DeleteModelData",
        "MapFunctionOnEntities",
        "MapFunctionOnObjects",
        "OperationsMigration",
        "RemoveFieldData",
    ],
    "definitions.stages": ["MappedStage", "OnceStage"],
    "testing": ["BackendContract", "run_migration"],
    "urls": ["urlpatterns"],
    "worker": ["perform", "recover"],
    "jobs": ["Job"],
    "backends.base": ["BaseBackend"],
    "backends.local": ["LocalBackend"],
    "backends.immediate": ["ImmediateBackend"],
    "backends.dummy": ["DummyBackend"],
    "templatetags.massmigration": ["register"],
}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for paths in (INHERITED, DOCUMENTED)
        for module, names in paths.items()
        for name in names or [None]
    ],
)
def test_projects_can_import(module, name):
    found = import_module(f"massmigration.{module}")

    assert hasattr(found, name)


@pytest.mark.parametrize("name", ["manage", "run", "detail", "delete"])
def test_the_pages_have_their_names(name):
    assert f"massmigration_{name}" in get_resolver().reverse_dict
