"""A column in the table that the model no longer has."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("people", "0001_initial")]

    operations = [
        migrations.AddField(
            "person", "old_code", models.CharField(max_length=20, default="left", null=True, db_column="old code")
        ),
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("person", "old_code")]),
    ]
