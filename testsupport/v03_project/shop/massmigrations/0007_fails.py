from massmigration.migrations import SimpleMigration


class Migration(SimpleMigration):
    """Raises."""

    def operation(self, db_alias):
        raise LookupError("nothing here")
