"""A backend as 0.3.9 has them, which works through the objects in this process."""

from massmigration.backends.base import BackendBase


class InlineBackend(BackendBase):
    def run_simple(self, migration, db_alias):
        migration.wrapped_operation(db_alias)

    def run_mapper(self, migration, db_alias):
        attempt_uuid = migration.mark_as_started(db_alias)
        for obj in migration.get_queryset(db_alias):
            migration.wrapped_operation(obj, attempt_uuid, db_alias)
        migration.mark_as_finished(db_alias)
