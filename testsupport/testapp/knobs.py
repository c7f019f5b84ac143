"""Additional behavior of the app's migrations, set by tests: in this process, or by the environment."""

import os
import time

from django.db.models import F

from testsupport.testapp.models import Call, Item


def pause(rows=1):
    """Sleep MM_TEST_PAUSE seconds a row, unless the file MM_TEST_HURRY exists."""
    seconds = float(os.environ.get("MM_TEST_PAUSE", "0"))
    if seconds and not os.path.exists(os.environ.get("MM_TEST_HURRY", "")):  # noqa: PTH110
        time.sleep(seconds * rows)


def log_call(migration, item_pk, db_alias):
    Call.objects.using(db_alias).create(migration=migration, item=item_pk, worker=str(os.getpid()))


def count(db_alias, **condition):
    Item.objects.using(db_alias).filter(**condition).update(n=F("n") + 1)


def note_run(text):
    """Note a call where no rollback removes it: in the file MM_TEST_RUNS."""
    if path := os.environ.get("MM_TEST_RUNS"):
        with open(path, "a") as file:  # noqa: PTH123
            file.write(f"{text}\n")
