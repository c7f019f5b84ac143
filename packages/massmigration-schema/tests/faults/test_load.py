"""Writers beside a change whose workers are killed, and an oracle over all rows."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command

from massmigration import api
from massmigration.states import Status
from massmigration_schema import reports
from testsupport.shop import Journal, Reader
from testsupport.shop_app import installed
from testsupport.threads import PATIENCE, in_threads

OPERATIONS = (
    'migrations.AddField("campaign", "likes", models.IntegerField(null=True)), '
    'migrations.AlterField("campaign", "budget", models.DecimalField(max_digits=14, decimal_places=3)), '
    'migrations.AlterField("campaign", "name", models.CharField(max_length=200))'
)
KEY = "shop:0002_change.schema"
WRITERS = 4
ROOT = Path(__file__).parents[4]


class Worker:
    """A process that runs the change, until it is killed or the change waits."""

    def __init__(self, shop, folder):
        overrides = {
            "INSTALLED_APPS": [*settings.INSTALLED_APPS],
            "MASSMIGRATION_LEASE": {"seconds": 3},
            "MASSMIGRATION_SHARDS": 4,
        }
        paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "testsupport.settings",
            "MM_TEST_OVERRIDES": json.dumps(overrides),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        command = [
            sys.executable,
            "-m",
            "django",
            "massmigrate",
            "shop",
            "0002_change.schema",
            "--database",
            shop.db_alias,
        ]
        self.log = folder / f"worker{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def progress(shop):
    return api.status(KEY, shop.db_alias)


def copied(shop):
    found = progress(shop)
    return (found.stage, found.processed) if found else (0, 0)


def run(shop, folder, stop, journals, *, kills, patience):
    """Run the change to its end, with so many kills of a worker that has worked. Return what went wrong."""
    try:
        api.launch(KEY, shop.db_alias)
        workers = [Worker(shop, folder) for _ in range(2)]
        until, killed, seen = time.monotonic() + patience, 0, (0, 0)
        while progress(shop).is_active:
            if time.monotonic() > until:
                return f"It is not done: {progress(shop)}. {[each.log.read_text() for each in workers]}"
            now = copied(shop)
            if killed < kills and now > seen:
                workers.pop(0).kill()
                workers.append(Worker(shop, folder))
                killed, seen = killed + 1, now
            if not any(each.process.poll() is None for each in workers):
                workers.append(Worker(shop, folder))
            time.sleep(0.1)
        if progress(shop).status is not Status.WAITING or killed < kills:
            return f"It is {progress(shop)} after {killed} kills."
        for each in workers:
            each.kill()
        errors = [error for journal in journals for error in journal.errors]
        if errors:
            return f"Writers failed before the cutover: {errors}"
        call_command(
            "onlinemigration", "cutover", "shop", "0002", "--database", shop.db_alias, "--no-input", verbosity=0
        )
    finally:
        stop.set()
    return ""


def loaded(shop, folder, *, rows, kills, patience):
    """Run the change beside writers. Return the journals of these."""
    shop.fill_many(rows)
    keys = list(range(1, rows + 1))
    journals = [Journal(shop, number, WRITERS, seed=rows, pause=0.01) for number in range(WRITERS)]
    stop = threading.Event()
    with installed(shop, folder, OPERATIONS, direct_up_to=0, max_batch_size=500):
        answers = in_threads(
            [
                lambda: run(shop, folder, stop, journals, kills=kills, patience=patience),
                *(lambda journal=each: journal.run(stop, keys) for each in journals),
            ],
            patience=patience + 60,
        )
        assert [each for each in answers if each] == []
        assert progress(shop).status is Status.APPLIED
    return journals


def check(shop, journals):
    expected = {key: value for journal in journals for key, value in journal.rows.items() if value is not None}
    found = dict(shop.execute("SELECT id, description FROM campaign"))
    errors = [error for journal in journals for error in journal.errors]
    if shop.db_alias == "mysql":
        # When the cutover alters a foreign key, the server may choose a writer as the victim of a deadlock.
        errors = [error for error in errors if not error.startswith("(1213, ")]
    assert errors == []
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = [key for key in expected.keys() & found.keys() if expected[key] != found[key]]
    assert (sorted(missing), sorted(unknown), sorted(wrong)) == ([], [], [])


@pytest.mark.slow
def test_nothing_is_lost_beside_writers_when_workers_are_killed(shop, tmp_path):
    journals = loaded(shop, tmp_path, rows=20_000, kills=1, patience=90)

    check(shop, journals)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_a_large_table_when_workers_are_killed_often(shop, tmp_path):
    journals = loaded(shop, tmp_path, rows=1_000_000, kills=6, patience=3000)

    check(shop, journals)


@pytest.mark.slow
@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_worker_that_is_killed_in_the_cutover_needs_no_operator(shop, tmp_path):
    shop.fill(3)
    unique = 'migrations.AlterField("campaign", "post", models.CharField(max_length=128, null=True, unique=True))'
    with installed(shop, tmp_path, unique, direct_up_to=0, cutover="auto"):
        change = reports.find("shop", "0002")
        # The cutover makes strict triggers, then waits for the lock of a child.
        with Reader(shop.db_alias, "shop_note"):
            # It launches the change, so that no thread of this process works on it.
            killed = Worker(shop, tmp_path)
            wait_until(lambda: "Interrupted cutover" in labels(change, shop))
            killed.kill()
        assert "Interrupted cutover" in labels(change, shop)

        second = Worker(shop, tmp_path)
        wait_until(lambda: progress(shop).status is Status.APPLIED, lambda: second.log.read_text())
        second.process.wait(PATIENCE)

        assert "Interrupted cutover" not in labels(change, shop)


def labels(change, shop):
    return [detail.label for detail in change.get_details(shop.db_alias)]


def wait_until(is_true, text=lambda: ""):
    until = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < until, text()
        time.sleep(0.1)
