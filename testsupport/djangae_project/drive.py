"""`python drive.py VERB [...]`: does one thing with the project, and prints what it found as JSON."""

import json
import os
import sys
import time
from collections import Counter

import django
from django.core.management import call_command
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")


def prepare(rows):
    from shop.models import Item

    if connection.vendor != "unknown":  # documents need no tables, and the emulator cannot list those that there are
        call_command("migrate", run_syncdb=True, verbosity=0)
    for start in range(0, int(rows), 250):
        Item.objects.bulk_create(Item(name=f"Item {n}") for n in range(start, min(start + 250, int(rows))))


def launch(key):
    from massmigration import api

    api.launch(key, actor="code:test")
    return api.not_sent(key)


def status(key):
    from massmigration import api

    reading = api.status(key)
    return {"status": reading.status, "done": reading.done, "failed": reading.failed, "error": reading.last_error}


def wait(key, share, rows):
    """Until so much of it is done, or it has ended."""
    while True:
        found = status(key)
        if found["done"] >= float(share) * int(rows) or found["status"] not in ("queued", "running"):
            return found
        time.sleep(0.2)


def launch_and_wait(key, share, rows):
    """In one process: while a second one starts, all may be done."""
    assert launch(key) == ""
    return wait(key, share, rows)


def wait_until_ended(key):
    return wait(key, "inf", 1)


def counts():
    from shop.models import Call, Item

    from massmigration.models import Event, ShardRecord

    calls = Counter(call.what for call in Call.objects.all())
    once = calls.pop("once", 0)
    return {
        "items": sum(1 for item in Item.objects.all() if item.slug == item.name.lower()),
        "calls": sorted(Counter(calls.values()).items()),
        "once": once,
        "shards": [shard.processed for shard in ShardRecord.objects.all()],
        "verbs": Counter(event.verb for event in Event.objects.all()),
    }


if __name__ == "__main__":
    django.setup()
    verb, *arguments = sys.argv[1:]
    print(json.dumps(globals()[verb](*arguments)))  # noqa: T201
