"""What the app's migrations do besides their work, set by tests: in this process, or by environment in others."""

import os
import time

from django.db.models import F

from testsupport.testapp.models import Call, Item


def pause(rows=1):
    """Make an operation last as long as the test wants: MM_TEST_PAUSE seconds a row, until there is MM_TEST_HURRY."""
    seconds = float(os.environ.get("MM_TEST_PAUSE", "0"))
    if seconds and not os.path.exists(os.environ.get("MM_TEST_HURRY", "")):  # noqa: PTH110
        time.sleep(seconds * rows)


def log_call(migration, item_pk, db_alias):
    Call.objects.using(db_alias).create(migration=migration, item=item_pk, worker=str(os.getpid()))


def count(db_alias, **condition):
    Item.objects.using(db_alias).filter(**condition).update(n=F("n") + 1)


def note_run(text):
    """Note a call where no rollback takes it back: a line in the file MM_TEST_RUNS."""
    if path := os.environ.get("MM_TEST_RUNS"):
        with open(path, "a") as file:  # noqa: PTH123
            file.write(f"{text}\n")
