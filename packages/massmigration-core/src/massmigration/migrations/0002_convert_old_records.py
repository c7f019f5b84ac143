from django.db import migrations

from massmigration.migrations._old_records import ConvertOldRecords


class Migration(migrations.Migration):
    """The conversion of old records, on engines where the first migration could not do it in the same transaction."""

    dependencies = [("massmigration", "0001_initial")]

    operations = [ConvertOldRecords()]
