from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Order",
            [
                ("id", models.AutoField(primary_key=True, serialize=False)),
                ("reference", models.CharField(max_length=40)),
                ("amount", models.IntegerField()),
            ],
        ),
        migrations.CreateModel(
            "Line",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("order", models.ForeignKey(on_delete=models.CASCADE, to="shop.order")),
                ("text", models.CharField(max_length=40)),
            ],
        ),
    ]
