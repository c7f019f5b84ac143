from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("gated", "0001_initial")]

    operations = [migrations.AddField("parcel", "cents", models.IntegerField(null=True))]
