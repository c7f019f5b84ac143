"""Models to migrate. `Item.n` and a `Call` per call show whether an operation ran exactly once."""

import uuid

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


class Place(models.Model):
    name = models.CharField(max_length=20)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.name


class Restaurant(Place):
    """A model that inherits a table."""

    stars = models.IntegerField(default=0)


class Diner(Restaurant):
    """A model that inherits two tables."""

    has_jukebox = models.BooleanField(default=False)


class Shop(models.Model):
    shop_id = models.AutoField(primary_key=True)
    wares = models.CharField(max_length=20, default="")

    def __str__(self):
        return self.wares


class Cafe(Place, Shop):
    """A model with two parents, whose keys are independent."""


class CheapRestaurant(Restaurant):
    class Meta:
        proxy = True


class Profile(models.Model):
    """A model whose primary key is a relation."""

    place = models.OneToOneField(Place, models.CASCADE, primary_key=True)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.note


class Person(models.Model):
    """A model with a foreign key, which PostgreSQL and SQLite check at COMMIT."""

    name = models.CharField(max_length=20)
    nick = models.CharField(max_length=20, null=True, unique=True)
    home = models.ForeignKey(Place, models.CASCADE, null=True)
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=20)
    places = models.ManyToManyField(Place)

    def __str__(self):
        return self.name


class Word(models.Model):
    text = models.CharField(max_length=20, primary_key=True)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.text


class Meaning(models.Model):
    """A model whose primary key is a relation to a text."""

    word = models.OneToOneField(Word, models.CASCADE, primary_key=True)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return self.note


class Token(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return str(self.id)


class Price(models.Model):
    amount = models.DecimalField(max_digits=12, decimal_places=3, primary_key=True)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return str(self.amount)


class Moment(models.Model):
    at = models.DateTimeField(primary_key=True)
    note = models.CharField(max_length=20, default="")
    n = models.IntegerField(default=0)

    def __str__(self):
        return str(self.at)


class Awkward(models.Model):
    """A model with names that must be quoted."""

    order = models.BigAutoField(primary_key=True, db_column="Primary Key")
    group = models.IntegerField(default=0)
    note = models.CharField(max_length=20, default="", db_column="select")

    class Meta:
        db_table = "Table of Rows"

    def __str__(self):
        return self.note


class Everything(models.Model):
    """A model with every built-in type of field that needs no further package."""

    small = models.SmallIntegerField(null=True)
    integer = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    positive_small = models.PositiveSmallIntegerField(null=True)
    positive = models.PositiveIntegerField(null=True)
    positive_big = models.PositiveBigIntegerField(null=True)
    decimal = models.DecimalField(max_digits=30, decimal_places=10, null=True)
    float = models.FloatField(null=True)
    boolean = models.BooleanField(null=True)
    char = models.CharField(max_length=10, null=True)
    text = models.TextField(null=True)
    slug = models.SlugField(null=True)
    email = models.EmailField(null=True)
    url = models.URLField(null=True)
    file = models.FileField(null=True)
    file_path = models.FilePathField(path="/", null=True)
    uuid = models.UUIDField(null=True)
    date = models.DateField(null=True)
    time = models.TimeField(null=True)
    at = models.DateTimeField(null=True)
    duration = models.DurationField(null=True)
    binary = models.BinaryField(null=True, editable=True)
    json = models.JSONField(null=True)
    ip = models.GenericIPAddressField(null=True)
    place = models.ForeignKey(Place, models.SET_NULL, null=True)
    word = models.ForeignKey(Word, models.SET_NULL, null=True)

    def __str__(self):
        return str(self.pk)
