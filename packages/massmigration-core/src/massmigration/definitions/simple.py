"""A migration that is done by one call."""

from __future__ import annotations

from collections.abc import Sequence

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import OnceStage, Stage
from massmigration.exceptions import BadMigrationFile


class SimpleMigration(BaseMigration):
    """One call of `operation`, in one transaction with the bookkeeping."""

    backend_method = "run_simple"

    def operation(self, db_alias: str) -> None:
        """Do it, on the database `db_alias`."""
        raise NotImplementedError

    def get_stages(self) -> Sequence[Stage]:
        if type(self).operation is SimpleMigration.operation:
            raise BadMigrationFile(f"Migration {self.key!r} has no operation(self, db_alias) method; add one.")
        return [OnceStage(name=self.key, atomic=self.atomic, idle_limit=self.idle_limit, operation=self.operation)]
