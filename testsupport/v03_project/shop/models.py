"""The data."""

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.name
