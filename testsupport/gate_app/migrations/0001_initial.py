from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            "Parcel",
            [("id", models.BigAutoField(primary_key=True)), ("price", models.CharField(max_length=20))],
        ),
    ]
