"""Jobs over real gRPC to the emulator, and over real HTTP back to Django servers, on PostgreSQL.

Requests are authenticated in full: the emulator does not sign, so the sender puts a token into the task.
"""

import datetime as dt
from collections import Counter

import pytest
from django.db import connection, connections
from django.test import override_settings
from django.test.testcases import LiveServerThread

from massmigration import api
from massmigration.loader import store
from massmigration.models import Event, ShardRecord
from massmigration.testing import BackendContract
from testsupport import oracle
from testsupport.cloudtasks import crashes, shrinking
from testsupport.cloudtasks.servers import QUEUE, DjangoServer, Emulator
from testsupport.cloudtasks.signing import ACCOUNT
from testsupport.processes import free_port
from testsupport.testapp.models import Item
from testsupport.worker_processes import wait_until

pytestmark = pytest.mark.slow

ALIAS = "postgresql"
ROWS = 20_000
BACKEND = "testsupport.cloudtasks.backends.SignedByTests"
BY_BATCH = "testapp:0004_by_batch"
FAST = {"LEASE": 1, "BATCH_SIZE": 200, "BATCH_DURATION": 0.1, "MAX_SET_SIZE": 400, "JOB_DURATION": 0.1, "SHARDS": 8}


def options(emulator, port):
    return {
        "project": "example",
        "location": "europe-west1",
        "url": f"http://127.0.0.1:{port}/massmigration/run/",
        "service_account": ACCOUNT,
        "emulator": emulator.host,
        "verifier": "testsupport.cloudtasks.signing.verify",
    }


@pytest.fixture(scope="module")
def emulator():
    emulator = Emulator()
    yield emulator
    emulator.stop()


@pytest.fixture(scope="class")
def received_here(request, emulator, django_db_setup):
    """A Django server in a thread of this process, so that the contract can lose and repeat deliveries."""
    # The contract is about the default database.
    default = connections.databases["default"]
    sqlite = dict(default)
    _replace(default, connections.databases[ALIAS])
    server = LiveServerThread("127.0.0.1", lambda handler: handler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    request.cls.emulator = emulator
    request.cls.backend_options = options(emulator, server.port)
    with override_settings(ROOT_URLCONF="testsupport.cloudtasks.urls"):
        yield
    server.terminate()
    _replace(default, sqlite)


def _replace(database, given):
    connections["default"].close()
    del connections["default"]
    database.clear()
    database.update(given)


@pytest.mark.usefixtures("received_here")
class TestContract(BackendContract):
    backend_path = BACKEND

    @pytest.fixture
    def short_lease(self, settings):
        """A lease longer than any delivery takes; otherwise recovery would send jobs a second time."""
        settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=2)

    def drain(self):
        self.emulator.wait_until_empty()

    def test_it_is_about_postgresql(self):
        assert connection.vendor == "postgresql"


class Cluster:
    """Servers that the emulator delivers to. This process launches the migrations."""

    def __init__(self, emulator, **environ):
        self.port = free_port()
        self.emulator = emulator
        given = {"BACKEND": BACKEND, "BACKEND_OPTIONS": options(emulator, self.port)}
        self.settings = {f"MASSMIGRATION_{name}": value for name, value in given.items()}
        self.server = DjangoServer(FAST | given, port=self.port, **environ)

    def stop(self):
        self.server.stop()
        self.emulator.client.purge_queue(request={"name": QUEUE})


@pytest.fixture(scope="module")
def cluster(emulator, django_db_setup):
    cluster = Cluster(emulator)
    yield cluster
    cluster.stop()


@pytest.fixture
def launching(cluster, settings, db_alias):
    """Settings with which this process sends jobs to the servers."""
    _send_to(cluster, settings)
    store.by_key[shrinking.KEY] = shrinking.Migration(*shrinking.KEY.split(":"))
    yield
    del store.by_key[shrinking.KEY]
    cluster.emulator.wait_until_empty()


def _send_to(cluster, settings):
    for name, value in cluster.settings.items():
        setattr(settings, name, value)


def wait_until_applied(key, timeout=400):
    assert api.wait(key, ALIAS, timeout=timeout, interval=0.05).status == "applied"


def verbs(verb):
    return Event.objects.using(ALIAS).filter(verb=verb).count()


on_postgresql = pytest.mark.parametrize("db_alias", [ALIAS], indirect=True)


@on_postgresql
@pytest.mark.usefixtures("launching")
def test_a_queryset_that_shrinks_is_done_to_its_end(db_alias):
    oracle.make_items(db_alias, ROWS)

    api.launch(shrinking.KEY, db_alias, actor="code:test")
    wait_until_applied(shrinking.KEY)

    assert not Item.objects.using(db_alias).filter(slug=None).exists()
    assert oracle.counts(db_alias) == [1]


@on_postgresql
@pytest.mark.usefixtures("launching")
def test_an_empty_queryset_is_applied_at_once(db_alias):
    api.launch(BY_BATCH, db_alias, actor="code:test")
    wait_until_applied(BY_BATCH)

    assert verbs("applied") == 1


@on_postgresql
@pytest.mark.usefixtures("launching")
def test_after_a_deletion_and_a_launch_only_the_new_attempt_works(db_alias):
    oracle.make_items(db_alias, ROWS)
    api.launch(BY_BATCH, db_alias, actor="code:test")
    wait_until(lambda: oracle.rows_counted(db_alias))

    api.cancel(BY_BATCH, db_alias, actor="code:test")
    api.forget(BY_BATCH, db_alias, actor="code:test")
    Item.objects.using(db_alias).update(n=0)
    api.launch(BY_BATCH, db_alias, actor="code:test")
    wait_until_applied(BY_BATCH)

    assert oracle.counts(db_alias) == [1]
    assert (verbs("launch"), verbs("applied")) == (2, 1)


@on_postgresql
def test_crashes_kills_and_duplicates_lose_and_repeat_nothing(
    db_alias, settings, tmp_path, monkeypatch, record_property
):
    crashed = tmp_path / "crashes"
    crashed.touch()
    oracle.make_items(db_alias, ROWS)
    doubling = Emulator(copies=2)
    cluster = Cluster(doubling, MM_TEST_CRASHES=str(crashed))
    try:
        _send_to(cluster, settings)
        api.launch(BY_BATCH, db_alias, actor="code:test")
        for share in (3, 6):
            wait_until(lambda: oracle.rows_counted(db_alias) >= ROWS * share / 10, timeout=400)  # noqa: B023
            assert api.status(BY_BATCH, db_alias).status == "running"
            cluster.server.kill()
            cluster.server.start()
        wait_until_applied(BY_BATCH)
        doubling.wait_until_empty()
    finally:
        cluster.server.stop()
        doubling.stop()

    assert Counter(crashed.read_text().splitlines()) == crashes.TIMES
    assert ShardRecord.objects.using(db_alias).count() == 8
    assert oracle.counts(db_alias) == [1]
    assert oracle.tally(db_alias) == (ROWS, 0, 0)
    assert verbs("applied") == 1
