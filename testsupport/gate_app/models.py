"""A model whose new column may not be null, once a mass migration has filled it."""

from django.db import models


class Parcel(models.Model):
    price = models.CharField(max_length=20)
    cents = models.IntegerField()

    def __str__(self):
        return self.price
