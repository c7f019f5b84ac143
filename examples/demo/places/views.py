"""The front page."""

from django.shortcuts import render

from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.progress import read
from places.folding import fold
from places.models import City

SHOWN = 30


def front(request):
    query = request.GET.get("q", "").strip()
    cities = City.objects.all()
    for word in fold(query).split():
        cities = cities.filter(search_key__contains=word)
    context = {"query": query, "cities": cities[:SHOWN], "count": cities.count(), "migrations": _migrations()}
    return render(request, "places/front.html", context)


def _migrations():
    records = MigrationRecord.objects.in_bulk()
    for migration in store.of_app("places"):
        record = records.get(migration.key)
        yield {
            "migration": migration,
            "record": record,
            "progress": read(migration.key, "default"),
            "seconds": (record.finished_at - record.launched_at).total_seconds()
            if record and record.finished_at
            else None,
        }
