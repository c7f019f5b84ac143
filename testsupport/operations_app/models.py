"""Models to fill, copy and delete. The table of `Person` has a column more: `old code`, which the model had once."""

import uuid

from django.db import models


class Kept(models.Manager):
    """A manager that leaves out deleted objects."""

    def get_queryset(self):
        return super().get_queryset().filter(is_deleted=False)


class Town(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self):
        return self.name


class Person(models.Model):
    name = models.CharField(max_length=100)
    nick = models.CharField(max_length=100, null=True)
    favourite_colour = models.CharField(max_length=50, null=True, default="blue")
    token = models.UUIDField(null=True, default=uuid.uuid4)
    age = models.IntegerField(null=True)
    data = models.JSONField(default=dict)
    town = models.ForeignKey(Town, models.SET_NULL, null=True)
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.name


class Archived(models.Model):
    """A model with all fields of `Person`, and more."""

    number = models.BigAutoField(primary_key=True, db_column="the number")
    name = models.CharField(max_length=100)
    nick = models.CharField(max_length=100, null=True)
    favourite_colour = models.CharField(max_length=50, null=True)
    token = models.UUIDField(null=True)
    age = models.IntegerField(null=True)
    data = models.JSONField(default=dict)
    town = models.ForeignKey(Town, models.SET_NULL, null=True)
    n = models.IntegerField(default=0)
    reason = models.CharField(max_length=20, default="old")

    def __str__(self):
        return self.name


class Card(models.Model):
    """A model with a unique label, a serial number from a Python function, and a date from the clock."""

    label = models.CharField(max_length=100, unique=True)
    serial = models.UUIDField(default=uuid.uuid4)
    issued_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.label


class Badge(models.Model):
    """The same as `Card`, without the values from Python."""

    label = models.CharField(max_length=100, unique=True)
    strict = models.CharField(max_length=5, null=True)

    def __str__(self):
        return self.label


class Visit(models.Model):
    person = models.ForeignKey(Person, models.CASCADE)

    def __str__(self):
        return str(self.person_id)


class Member(Person):
    """A model that inherits a table."""

    level = models.IntegerField(null=True)


class Club(models.Model):
    name = models.CharField(max_length=50)
    people = models.ManyToManyField(Person)

    def __str__(self):
        return self.name


class Deletable(models.Model):
    """A model whose managers leave out some rows, even the base manager."""

    colour = models.CharField(max_length=20, null=True, default="blue")
    n = models.IntegerField(default=0)
    is_deleted = models.BooleanField(default=False)

    objects = Kept()

    class Meta:
        abstract = True
        base_manager_name = "objects"

    def __str__(self):
        return str(self.pk)


class Book(Deletable):
    pass


class OldBook(Deletable):
    pass


class Loan(Deletable):
    book = models.ForeignKey(Book, models.CASCADE)


class Label(Deletable):
    """A model whose key is a text."""

    text = models.CharField(max_length=20, primary_key=True)
