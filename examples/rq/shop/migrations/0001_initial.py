from django.db import migrations, models


def add_products(apps, schema_editor):
    product = apps.get_model("shop", "Product")
    product.objects.bulk_create(product(name=f"Product {number}") for number in range(20_000))


class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            name="Product",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=100)),
                ("slug", models.CharField(max_length=100, null=True)),
            ],
        ),
        migrations.RunPython(add_products),
    ]
