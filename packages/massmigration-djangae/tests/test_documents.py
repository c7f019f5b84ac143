"""Records and objects on Datastore and Firestore, through gcloudc, in a djangae project."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from testsupport.cloudtasks.djangae import DjangaeProject, interpreter
from testsupport.firestore import Datastore, Firestore
from testsupport.plugin import run_folder
from testsupport.services import Unavailable

ROWS = 1_000
MAPPER, SIMPLE = "shop:0001_slugs", "shop:0002_once"
DURATIONS = {"LEASE": 20, "JOB_DURATION": 5, "BATCH_DURATION": 0.5}
STANDSTILL = 60
"""Seconds after which the database ends the transactions of a process that was killed, and frees what they locked."""

PATIENCE = 600


@pytest.fixture
def projects():
    """One on each database. Every delivery comes twice, at once."""
    try:
        servers = [Datastore(), Firestore()]
    except Unavailable as error:
        pytest.skip(str(error))  # no registry that tests may count on has it
    interpreter()
    made = []
    try:
        made += [project_on(server) for server in servers]
        yield made
    finally:
        for project in made:
            project.stop()
        for server in servers:
            server.stop()


def project_on(server):
    indexes = run_folder().path / f"{server.engine}.indexes"
    indexes.touch()
    engine = f"gcloudc.db.backends.{server.engine}"
    database = {"ENGINE": engine, "PROJECT": "example", "INDEXES_FILE": str(indexes), "OPTIONS": {}}
    environ = {server.told_by: server.start(run_folder()), "DATASTORE_PROJECT_ID": "example"}
    environ |= {"GOOGLE_CLOUD_PROJECT": "example", "MM_TEST_DURATIONS": json.dumps(DURATIONS)}
    return DjangaeProject(database, copies=2, **environ)


def kill_in_mid_work(project):
    """Run both migrations; return what is counted afterwards."""
    project.drive("prepare", ROWS)
    project.start()
    assert project.drive("launch_and_wait", MAPPER, 0.1, ROWS, timeout=PATIENCE)["status"] == "running"
    project.server.kill()
    project.server.start()
    mapper = project.drive("wait_until_ended", MAPPER, timeout=STANDSTILL + PATIENCE)
    assert project.drive("launch", SIMPLE) == ""
    simple = project.drive("wait_until_ended", SIMPLE, timeout=PATIENCE)
    return (mapper["status"], simple["status"]), project.drive("counts")


@pytest.mark.timeout(1500)
def test_a_kill_and_duplicates_lose_and_repeat_nothing(projects):
    with ThreadPoolExecutor() as pool:  # side by side, for both stand still for a minute
        found = list(pool.map(kill_in_mid_work, projects))

    for statuses, counts in found:
        assert statuses == ("applied", "applied")
        assert (counts["items"], counts["calls"], counts["once"]) == (ROWS, [[1, ROWS]], 1)
        assert (sum(counts["shards"]), counts["verbs"]["applied"]) == (ROWS + 1, 2)
        assert len(counts["shards"]) > 4
