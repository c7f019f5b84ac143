"""Records and objects on Datastore and Firestore, through gcloudc, in a djangae project."""

import json

import pytest

from testsupport.cloudtasks.djangae import DjangaeProject
from testsupport.firestore import Datastore, Firestore
from testsupport.plugin import run_folder
from testsupport.services import Unavailable
from testsupport.workers import wait_until

ROWS = 1_000
MAPPER, SIMPLE = "shop:0001_slugs", "shop:0002_once"
ENDED = ("applied", "failed", "paused", "cancelled")
DURATIONS = {"LEASE": 3, "JOB_DURATION": 1, "BATCH_DURATION": 0.5}


@pytest.fixture(params=[Datastore, Firestore], ids=["datastore", "firestore"], scope="module")
def project(request):
    """Every delivery comes twice, at once."""
    try:
        server = request.param()
    except Unavailable as error:
        pytest.skip(str(error))  # no registry that tests may count on has it
    environ = {server.told_by: server.start(run_folder()), "DATASTORE_PROJECT_ID": "example"}
    indexes = run_folder().path / "indexes.json"
    indexes.touch()
    engine = f"gcloudc.db.backends.{server.engine}"
    database = {"ENGINE": engine, "PROJECT": "example", "INDEXES_FILE": str(indexes), "OPTIONS": {}}
    environ |= {"GOOGLE_CLOUD_PROJECT": "example", "MM_TEST_DURATIONS": json.dumps(DURATIONS)}
    project = DjangaeProject(database, copies=2, **environ)
    try:
        project.drive("prepare", ROWS)
        project.start()
        yield project
    finally:
        project.stop()
        server.stop()


def status(project, key):
    return project.drive("status", key)


@pytest.mark.timeout(400)
def test_kills_and_duplicates_lose_and_repeat_nothing(project):
    assert project.drive("launch", MAPPER) == ""
    for share in (0.2, 0.5):
        wait_until(lambda: status(project, MAPPER)["done"] >= ROWS * share, timeout=150)  # noqa: B023
        assert status(project, MAPPER)["status"] == "running"
        project.server.kill()
        project.server.start()
    wait_until(lambda: status(project, MAPPER)["status"] in ENDED, timeout=200)
    assert project.drive("launch", SIMPLE) == ""
    wait_until(lambda: status(project, SIMPLE)["status"] in ENDED, timeout=50)

    counts = project.drive("counts")
    assert [status(project, key)["status"] for key in (MAPPER, SIMPLE)] == ["applied", "applied"]
    assert (counts["items"], counts["calls"], counts["once"]) == (ROWS, [[1, ROWS]], 1)
    assert (sum(counts["shards"]), counts["verbs"]["applied"]) == (ROWS + 1, 2)
    assert len(counts["shards"]) > 4
