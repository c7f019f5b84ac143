from django.db import migrations, models

from massmigration.gates import RequireMassMigration


class Migration(migrations.Migration):
    dependencies = [("gated", "0002_cents")]

    operations = [
        RequireMassMigration("gated", "0001_cents"),
        migrations.AlterField("parcel", "cents", models.IntegerField()),
    ]
