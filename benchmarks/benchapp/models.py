"""One table, as the design's figures were measured on."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=120, null=True)
    counter = models.IntegerField(db_index=True)
    payload = models.TextField()

    def __str__(self):
        return self.name


class Copy(models.Model):
    """The model to which items are copied."""

    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=120, null=True)
    counter = models.IntegerField(db_index=True)
    payload = models.TextField()

    def __str__(self):
        return self.name
