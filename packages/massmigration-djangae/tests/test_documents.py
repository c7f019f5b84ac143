"""Records and objects on Datastore and Firestore, through gcloudc, in a djangae project."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from testsupport.cloudtasks.djangae import DjangaeProject, interpreter
from testsupport.firestore import Datastore, Firestore
from testsupport.services import Unavailable, run_folder

pytestmark = pytest.mark.slow

ROWS = 1_000
MAPPER, SIMPLE = "shop:0001_slugs", "shop:0002_once"
DURATIONS = {"LEASE": 20, "JOB_DURATION": 5, "BATCH_DURATION": 0.5}
STANDSTILL = 60
"""Seconds after which the database ends the transactions of a process that was killed, and frees what they locked."""

PATIENCE = 600


@pytest.fixture
def projects():
    """A project on each database, to which every task is delivered twice at the same time."""
    try:
        servers = [Datastore(), Firestore()]
    except Unavailable as error:
        pytest.skip(str(error))  # no package registry has it
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
    with ThreadPoolExecutor() as pool:  # in parallel, because both wait for a minute
        found = list(pool.map(kill_in_mid_work, projects))

    for statuses, counts in found:
        assert statuses == ("applied", "applied")
        assert (counts["items"], counts["calls"], counts["once"]) == (ROWS, [[1, ROWS]], 1)
        assert (sum(counts["shards"]), counts["verbs"]["applied"]) == (ROWS + 1, 2)
        assert len(counts["shards"]) > 4


KILLS = 5


def kill_again_and_again(project):
    """Run a migration for each kind of keys; return when the kills were, by objects done, and what is counted after."""
    rows, kills = 600, [0]
    project.drive("prepare_keyed", rows, timeout=PATIENCE)
    project.start()
    project.drive("launch_keyed")
    for _ in range(KILLS):
        kills.append(project.drive("wait_keyed", kills[-1] + 1, timeout=STANDSTILL + PATIENCE))
        project.server.kill()
        project.server.start()
    project.drive("wait_keyed", "inf", timeout=STANDSTILL + PATIENCE)
    return rows, kills[1:], project.drive("keyed_counts")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_five_kills_of_one_run_lose_and_repeat_nothing_whatever_the_keys(projects):
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(kill_again_and_again, projects))

    for rows, kills, counts in found:
        assert len([done for done in kills if 0 < done < 3 * rows]) == KILLS
        assert counts["statuses"] == ["applied"] * 3
        assert (counts["slugs"], counts["calls"]) == ([rows] * 3, [[1, 3 * rows]])
