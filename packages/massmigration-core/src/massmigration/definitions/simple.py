"""A migration that is done by one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import Stage
from massmigration.exceptions import BadMigrationFile

logger = logging.getLogger(__name__)


class SimpleMigration(BaseMigration):
    """One call of `operation`, in one transaction with the bookkeeping."""

    backend_method = "run_simple"

    def operation(self, db_alias: str) -> None:
        """Do it, on the database `db_alias`."""
        raise NotImplementedError

    def get_stages(self) -> Sequence[Stage]:
        if type(self).operation is SimpleMigration.operation:
            raise BadMigrationFile(f"Migration {self.key!r} has no operation(self, db_alias) method; add one.")
        return [self.once(self.operation)]

    def wrapped_operation(self, db_alias: str) -> None:
        """Run it here and now, from the record's beginning to its end. For custom backends."""
        attempt_uuid = self.mark_as_started(db_alias)
        try:
            self.operation(db_alias)
        except Exception as error:
            logger.exception("The operation of migration %s raised.", self.key)
            self.mark_as_errored(db_alias, error, attempt_uuid)
        else:
            self.mark_as_finished(db_alias, attempt_uuid)
