"""A command that does one thing with the project and prints the result as JSON: `python drive.py VERB [...]`."""

import json
import os
import sys
import time
import traceback
from collections import Counter

import django
from django.core.management import call_command
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")


def prepare(rows):
    from shop.models import Item

    if connection.vendor != "unknown":  # document databases need no tables, and the emulator cannot list kinds
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
    """Wait until this share of the rows is done, or the migration has ended. Return its status."""
    while True:
        found = status(key)
        if found["done"] >= float(share) * int(rows) or found["status"] not in ("queued", "running"):
            return found
        time.sleep(0.2)


def launch_and_wait(key, share, rows):
    """Launch and wait in one process: while a second process starts, all rows could be done."""
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


KEYED = {"shop:0001_slugs": "Item", "shop:0003_names": "Named", "shop:0004_tokens": "Token"}


def prepare_keyed(rows):
    """Create objects with integers, with names and with UUIDs as keys."""
    import scenarios

    for kind in KEYED.values():
        scenarios.make(kind, int(rows))


def launch_keyed():
    for key in KEYED:
        assert launch(key) == ""


def wait_keyed(count):
    """Wait until so many objects are done, or all migrations have ended. Return the number of objects done."""
    while True:
        found = [status(key) for key in KEYED]
        done = sum(each["done"] for each in found)
        if done >= float(count) or all(each["status"] not in ("queued", "running") for each in found):
            return done
        time.sleep(0.2)


def keyed_counts():
    import scenarios

    return {
        "statuses": [str(status(key)["status"]) for key in KEYED],
        "slugs": [
            sum(obj.slug == obj.name.lower() for obj in scenarios.MODELS[kind].objects.all()) for kind in KEYED.values()
        ],
        **counts(),
    }


def serve():
    """Answer one call of `scenarios.py` a line, until there are no more."""
    import scenarios

    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        try:
            answer = {"found": getattr(scenarios, name)(*arguments, **options)}
        except Exception:
            answer = {"raised": traceback.format_exc()}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    django.setup()
    verb, *arguments = sys.argv[1:]
    done = globals()[verb](*arguments)
    if verb != "serve":
        print(json.dumps(done))  # noqa: T201
