"""Products, which get slugs."""

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, null=True)

    def __str__(self):
        return self.name
