"""A comparison of rows and pages with the right results, which are computed without migrations."""

import http.cookiejar
import re
import sys
import unicodedata
import urllib.parse
import urllib.request
from collections import Counter

from django.db import connection

from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from places.models import City, Country

MARKS = dict.fromkeys(code for code in range(sys.maxunicode) if unicodedata.combining(chr(code)))
SIZES = """
    SELECT COUNT(*) FROM places_city WHERE size IS NOT CASE
        WHEN population >= 1000000 THEN 'metropolis' WHEN population >= 100000 THEN 'city'
        WHEN population >= 5000 THEN 'town' ELSE 'village' END
"""


class Mismatch(Exception):
    """The exception for a wrong row or page."""


def check_rows(rows):
    """Check every row. Raise `Mismatch` at the first that is wrong."""
    _expect("cities", City.objects.count(), rows)
    statuses = dict(MigrationRecord.objects.values_list("key", "status"))
    names = ("0001_search_keys", "0002_sizes", "0003_countries")
    _expect("statuses", statuses, {f"places:{name}": Status.APPLIED for name in names})
    counted = Counter()
    for shard in ShardRecord.objects.all():
        counted[shard.record_id] += shard.processed
    _expect("rows counted", counted, {f"places:{names[0]}": rows, f"places:{names[1]}": rows, f"places:{names[2]}": 1})
    cities, inhabitants = Counter(), Counter()
    for city in City.objects.order_by().iterator():
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", _folded(city.name))).strip("-_")
        _expect(f"the slug of {city.name}", city.slug, f"{slug}-{city.geonameid}")
        _expect(f"the search key of {city.name}", city.search_key, _folded(f"{city.name}\n{city.other_names}"))
        cities[city.country_code] += 1
        inhabitants[city.country_code] += city.population
    with connection.cursor() as cursor:
        cursor.execute(SIZES)
        _expect("cities of a wrong size", cursor.fetchone()[0], 0)
    _expect("cities by country", dict(Country.objects.values_list("code", "cities")), cities)
    _expect("inhabitants by country", dict(Country.objects.values_list("code", "population")), inhabitants)


def _folded(text):
    return unicodedata.normalize("NFKD", text.casefold()).translate(MARKS)


def _expect(what, found, expected):
    if found != expected:
        raise Mismatch(f"Expected {what}: {expected!r}, found: {found!r}.")


def check_pages(address, user, password):
    """Fetch the front page, search it, log in to the admin and search there. Raise `Mismatch` if a page is wrong."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def fetch(path, **fields):
        data = urllib.parse.urlencode(fields).encode() if fields else None
        with browser.open(urllib.request.Request(address + path, data, {"Referer": address}), timeout=30) as response:
            return response.read().decode()

    _contains("front page", fetch(""), "places:0001_search_keys", "Applied", "234,908")
    _contains("search", fetch("?" + urllib.parse.urlencode({"q": "東京"})), "Tokyo", "metropolis")
    _contains("style sheet", fetch("static/places/demo.css"), "color-scheme")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', fetch("admin/login/"))[1]
    fields = {"username": user, "password": password, "next": "/admin/", "csrfmiddlewaretoken": token}
    _contains("admin", fetch("admin/login/", **fields), "Site administration", "Cities")
    query = urllib.parse.urlencode({"q": "ΑΘΗΝΑ"})
    _contains("admin's search", fetch(f"admin/places/city/?{query}"), "Athens", "athens-264371")


def _contains(what, page, *texts):
    for text in texts:
        if text not in page:
            raise Mismatch(f"Expected {text!r} on the {what}; found: {page[:300]!r}...")
