"""Orders, whose keys become larger than an integer."""

from django.db import models


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    reference = models.CharField(max_length=40)
    amount = models.IntegerField()

    def __str__(self):
        return self.reference


class Line(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE)
    text = models.CharField(max_length=40)

    def __str__(self):
        return self.text
