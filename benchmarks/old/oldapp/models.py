"""The same table as `benchapp`'s."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=120, null=True)
    counter = models.IntegerField(db_index=True)
    payload = models.TextField()

    def __str__(self):
        return self.name
