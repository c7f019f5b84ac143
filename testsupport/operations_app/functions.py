"""The functions that operations call for each row."""

from django.db.models import F

from testsupport.testapp.models import Call


def count(person):
    person.n = F("n") + 1


def title(person):
    return person.name.upper()


def retitle(entity):
    """Log the call in the batch's transaction: an increment in Python would hide doubled work."""
    Call.objects.using(entity.db_alias).create(migration="entities", item=entity.key)
    entity["nick"] = entity["name"].upper()
