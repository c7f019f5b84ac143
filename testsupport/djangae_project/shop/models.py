from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return self.name


class Call(models.Model):
    """One call of an operation, written in its batch's transaction."""

    what = models.CharField(max_length=100)

    def __str__(self):
        return self.what
