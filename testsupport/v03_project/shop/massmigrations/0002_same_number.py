from massmigration.migrations import SimpleMigration


class Migration(SimpleMigration):
    dependencies = [
        ("shop", "0001_simple"),
    ]

    def operation(self, db_alias):
        pass
