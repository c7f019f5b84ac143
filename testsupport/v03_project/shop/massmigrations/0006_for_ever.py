from massmigration.migrations import BaseMigration


class Migration(BaseMigration):
    """Never tells how it went."""

    def launch(self, db_alias):
        self.mark_as_started(db_alias)
