"""Models to migrate. `Item.n`, incremented in the database, and a `Call` per call: the oracles of exactly-once."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100, null=True)
    note = models.CharField(max_length=100, default="")
    n = models.IntegerField(default=0)
    data = models.JSONField(default=dict)
    touched_at = models.DateTimeField(auto_now=True)

    def __str__(self):
        return self.name


class Call(models.Model):
    """One call of an operation, committed with what the call did."""

    migration = models.CharField(max_length=100)
    item = models.BigIntegerField(null=True, db_index=True)
    worker = models.CharField(max_length=100, default="")

    def __str__(self):
        return f"{self.migration} {self.item}"
