from django.db import migrations

from massmigration.migrations._old_records import ConvertOldRecords


class Migration(migrations.Migration):
    """What the first migration has set aside, on engines where it could not convert it in the same transaction."""

    dependencies = [("massmigration", "0001_initial")]

    operations = [ConvertOldRecords()]
