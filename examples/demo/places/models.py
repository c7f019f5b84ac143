"""The tables that are migrated."""

from django.db import models


class Size(models.TextChoices):
    """The size of a city, by its inhabitants."""

    VILLAGE = "village", "village, below 5 000"
    TOWN = "town", "town, below 100 000"
    CITY = "city", "city, below a million"
    METROPOLIS = "metropolis", "metropolis, from a million"


class City(models.Model):
    """A populated place. The last three fields are filled by the migrations."""

    geonameid = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=200)
    other_names = models.TextField(blank=True, help_text="In every script, one a line.")
    country_code = models.CharField(max_length=2, db_index=True)
    population = models.IntegerField()
    latitude = models.FloatField()
    longitude = models.FloatField()
    slug = models.CharField(max_length=220, null=True, editable=False)
    search_key = models.TextField(null=True, editable=False)
    size = models.CharField(max_length=10, choices=Size.choices, null=True, editable=False)

    class Meta:
        verbose_name_plural = "cities"
        ordering = ("-population",)
        indexes = (models.Index(fields=("-population",), name="places_city_population"),)

    def __str__(self):
        return self.name


class Country(models.Model):
    """The sums of a country's cities, filled by a migration."""

    code = models.CharField(max_length=2, primary_key=True)
    cities = models.IntegerField()
    population = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "countries"
        ordering = ("-population",)

    def __str__(self):
        return self.code
