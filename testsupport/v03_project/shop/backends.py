"""A custom backend."""

from massmigration.backends.base import BackendBase


class InlineBackend(BackendBase):
    """A backend that runs every migration immediately."""

    def run_simple(self, migration, db_alias):
        migration.wrapped_operation(db_alias)

    def run_mapper(self, migration, db_alias):
        attempt_uuid = migration.mark_as_started(db_alias)
        for obj in migration.get_queryset(db_alias):
            migration.wrapped_operation(obj, attempt_uuid, db_alias)
        migration.mark_as_finished(db_alias)

    def run_in_turns(self, migration, db_alias):
        migration.mark_as_started(db_alias)
        for _ in range(migration.get_backend_params()["turns"]):
            migration.take_turn(db_alias)
        migration.mark_as_finished(db_alias)
