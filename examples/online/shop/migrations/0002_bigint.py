from django.db import migrations, models

from massmigration_schema import OnlineMigration


class Migration(OnlineMigration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AlterField("order", "id", models.BigAutoField(primary_key=True, serialize=False)),
    ]
