import uuid

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, blank=True)
    text = models.TextField(blank=True)
    color = models.CharField(max_length=100, null=True)  # older entities lack it

    def __str__(self):
        return self.name


class Part(models.Model):
    item = models.ForeignKey(Item, models.CASCADE)

    def __str__(self):
        return str(self.pk)


class Named(models.Model):
    """A model whose key is a name."""

    code = models.CharField(max_length=100, primary_key=True)
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return self.code


class Archived(models.Model):
    """The model that named objects are copied to."""

    code = models.CharField(max_length=100, primary_key=True)
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return self.code


class Token(models.Model):
    """A model whose key is a UUID."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return str(self.pk)


class Call(models.Model):
    """One call of an operation, written in its batch's transaction."""

    what = models.CharField(max_length=100)

    def __str__(self):
        return self.what
