"""A storm on each queue and server. `MM_STORM_FAULTS` is the number of faults, and `MM_STORM_SEED` repeats a storm."""

import contextlib
import json
import os
from pathlib import Path

import pytest
import redis

from testsupport import celery_fleet, rq_fleet
from testsupport.storm import IDLE_LIMIT, LEASE, PAUSE, Storm, count_of, seed_of
from testsupport.worker_processes import Fleet, renew_fork_server

NAMES = ["0002_by_object", "0003_by_fields", "0004_by_batch"]
SETTINGS = {"LEASE": LEASE, "IDLE_LIMIT": IDLE_LIMIT, "JOB_DURATION": 1, "SHARDS": 6, "LOCK_WAIT": 60}
ROWS = 4_000


@contextlib.contextmanager
def celery_on_redis(db_alias, request):
    url = request.getfixturevalue("redis_url")
    with celery_fleet.fleet_of(db_alias, url, rows=0, **SETTINGS) as fleet:
        yield fleet, lambda: fleet.begin(pause=PAUSE), lambda: redis.Redis.from_url(url).flushdb()


@contextlib.contextmanager
def celery_on_rabbitmq(db_alias, request):
    url = request.getfixturevalue("rabbitmq_url")
    with celery_fleet.fleet_of(db_alias, url, rows=0, **SETTINGS) as fleet:
        yield fleet, lambda: fleet.begin(pause=PAUSE), fleet.app.control.purge


@contextlib.contextmanager
def rq(db_alias, request):
    url = request.getfixturevalue("redis_url")
    with rq_fleet.recovering(db_alias, url, **SETTINGS) as fleet:
        yield fleet, lambda: fleet.begin(pause=PAUSE), lambda: redis.Redis.from_url(url).flushdb()


@contextlib.contextmanager
def processes(db_alias, request):
    settings = {**SETTINGS, "BATCH_SIZE": 100, "MAX_BATCH_SIZE": 200, "MAX_SET_SIZE": 200, "BATCH_DURATION": 0.3}
    renew_fork_server()  # `own_server` has changed the address of the server
    try:
        with Fleet(db_alias, threads=2, **settings) as fleet:
            yield fleet, lambda: fleet.start(pause=PAUSE), None, lambda payloads: fleet.start(*payloads, pause=PAUSE)
    finally:
        renew_fork_server()


QUEUES = [celery_on_redis, celery_on_rabbitmq, rq, processes]


def storm_of(db_alias, server, queue, name, request, rng, faults, rows=ROWS):
    seed = seed_of(rng)
    print(f"MM_STORM_SEED={seed} repeats this storm.")  # noqa: T201
    with queue(db_alias, request) as (fleet, begin, flush, *send):
        storm = Storm(fleet, name, seed=seed, begin=begin, send=send[0] if send else None, flush=flush, server=server)
        storm.rage(faults, rows)
    print(f"{queue.__name__} on {db_alias}: {storm.told}, {storm.inside} inside a transaction")  # noqa: T201
    if path := os.environ.get("MM_STORM_REPORT"):
        line = {"queue": queue.__name__, "database": db_alias, "seed": seed, "inside": storm.inside, **storm.counts}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
    return storm


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("queue", QUEUES)
def test_a_storm_loses_and_repeats_nothing(own_server, queue, request, rng):
    db_alias, server = own_server
    name = NAMES[QUEUES.index(queue) % len(NAMES)]

    storm = storm_of(db_alias, server, queue, name, request, rng, count_of(24))

    assert storm.counts.total() == count_of(24)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_short_storm_loses_and_repeats_nothing(server_alias, request, rng):
    storm = storm_of(server_alias, None, processes, "0002_by_object", request, rng, 6, rows=1_500)

    assert storm.counts.total() == 6
