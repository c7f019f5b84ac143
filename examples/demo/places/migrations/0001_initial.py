"""The demo's tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Country",
            fields=[
                ("code", models.CharField(max_length=2, primary_key=True, serialize=False)),
                ("cities", models.IntegerField()),
                ("population", models.BigIntegerField()),
            ],
            options={
                "verbose_name_plural": "countries",
                "ordering": ("-population",),
            },
        ),
        migrations.CreateModel(
            name="City",
            fields=[
                ("geonameid", models.IntegerField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=200)),
                ("other_names", models.TextField(blank=True, help_text="In every script, one a line.")),
                ("country_code", models.CharField(db_index=True, max_length=2)),
                ("population", models.IntegerField()),
                ("latitude", models.FloatField()),
                ("longitude", models.FloatField()),
                ("slug", models.CharField(editable=False, max_length=220, null=True)),
                ("search_key", models.TextField(editable=False, null=True)),
                (
                    "size",
                    models.CharField(
                        choices=[
                            ("village", "village, below 5 000"),
                            ("town", "town, below 100 000"),
                            ("city", "city, below a million"),
                            ("metropolis", "metropolis, from a million"),
                        ],
                        editable=False,
                        max_length=10,
                        null=True,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "cities",
                "ordering": ("-population",),
                "indexes": [models.Index(fields=["-population"], name="places_city_population")],
            },
        ),
    ]
