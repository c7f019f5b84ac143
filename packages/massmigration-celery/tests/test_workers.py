import json

import pytest

from massmigration import api
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration_celery import tasks
from testsupport import oracle
from testsupport.celery_fleet import BATCH, KEY, PAUSE, fleet_of
from testsupport.fleet import SLOW
from testsupport.operators import leased_shards, pause_resume_and_cancel
from testsupport.processes import RunFolder
from testsupport.services import Redis
from testsupport.worker_processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = 8000
postgresql = pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)


@pytest.fixture
def second_redis():
    folder = RunFolder()
    server = Redis()
    server.start(folder)
    yield server
    server.stop()
    folder.remove()


def begun(fleet, batches=2):
    wait_until(lambda: fleet.done() >= batches * BATCH, timeout=SLOW)


@postgresql
def test_when_all_workers_are_killed_new_ones_go_on_by_themselves(server_alias, broker):
    url, pool, result_backend = broker
    with fleet_of(server_alias, url, pool, result_backend=result_backend, rows=ROWS) as fleet:
        fleet.start(2, pause=PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)
        for worker in fleet.alive():
            worker.freeze()
        for worker in fleet.alive():
            worker.kill()
        assert fleet.status() == "running"

        fleet.start(2)
        fleet.wait_until_applied()

    assert oracle.counts(server_alias) == [1]


def recovered_by_command(fleet):
    arguments = ["massmigrate", "--recover", "--database", fleet.db_alias]
    return " 0 stuck" not in fleet.run(*arguments).stdout


def recovered_by_task(fleet):
    return tasks.recover()


@pytest.mark.parametrize("is_recovered", [recovered_by_command, recovered_by_task])
@postgresql
def test_what_a_flushed_broker_has_lost_is_sent_again(server_alias, redis_url, is_recovered):
    with fleet_of(server_alias, redis_url, result_backend=redis_url, rows=ROWS) as fleet:
        (worker,) = fleet.start(1, pause=PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)
        worker.freeze()
        worker.kill()
        with fleet.app.connection_for_write() as connection:
            redis = connection.default_channel.client
            redis.flushall()
            wait_until(lambda: is_recovered(fleet), timeout=SLOW)
            sent = redis.llen(fleet.queue)
        fleet.start(1)
        fleet.wait_until_applied()

    assert sent
    assert oracle.counts(server_alias) == [1]


@postgresql
def test_pause_resume_and_cancel_come_from_another_process(server_alias, redis_url):
    with fleet_of(server_alias, redis_url, rows=4 * ROWS, BATCH_DURATION=600) as fleet:
        fleet.start(2, pause=20 * PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)
        pause_resume_and_cancel(fleet, batch=BATCH, one_more=fleet.start)


@postgresql
def test_operators_see_revoke_and_send_again_what_real_workers_have(server_alias, redis_url):
    with fleet_of(server_alias, redis_url, rows=4 * ROWS, JOB_DURATION=600, BATCH_DURATION=600, LEASE=600) as fleet:
        fleet.start(1, pause=20 * PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet, batches=1)
        (shown,) = api.perform_backend_action("show_workers", [KEY], server_alias)
        (said,) = api.perform_backend_action("revoke", [KEY], server_alias)
        api.perform_backend_action("send_again", [KEY], server_alias)
        fleet.hurry()
        fleet.wait_until_applied()

    assert shown.partition(": ")[2].startswith(f"{KEY}, shard ")
    in_queue, fetched = (int(word) for word in said.split() if word.isdecimal())
    assert fetched > 0
    assert in_queue + fetched == 7
    assert oracle.counts(server_alias) == [1]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@postgresql
def test_a_warm_shutdown_ends_jobs_with_their_batch(server_alias, redis_url, pool):
    # Otherwise threads would run one batch of each job that they have already fetched.
    conf = {"worker_prefetch_multiplier": 1}
    short = {"JOB_DURATION": 600, "LEASE": 600, "MAX_BATCH_SIZE": BATCH}
    with fleet_of(server_alias, redis_url, pool, rows=ROWS, conf=conf, **short) as fleet:
        (first,) = fleet.start(1, pause=4 * PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)
        done = fleet.done()
        first.terminate()
        assert first.wait() == 0
        batches = (fleet.done() - done) // BATCH
        leases = leased_shards(server_alias)
        fleet.start(1)
        fleet.wait_until_applied()

    assert batches <= 2
    assert leases == 0
    assert oracle.counts(server_alias) == [1]


@postgresql
def test_a_job_whose_process_is_killed_is_delivered_again(server_alias, redis_url):
    with fleet_of(server_alias, redis_url, rows=ROWS, JOB_DURATION=600) as fleet:
        (worker,) = fleet.start(1, pause=4 * PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)

        assert worker.kill_children() == 1
        fleet.wait_until_applied()

        assert worker.is_alive()
        assert worker.has_logged("WorkerLostError")
    assert oracle.counts(server_alias) == [1]


@postgresql
def test_a_chord_that_loses_its_result_backend_still_ends_applied(server_alias, redis_url, second_redis):
    quick = {"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}}
    conf = {"result_backend_transport_options": quick}
    with fleet_of(server_alias, redis_url, result_backend=second_redis.url, rows=ROWS, conf=conf) as fleet:
        fleet.start(2, pause=PAUSE)
        api.launch(KEY, server_alias)
        begun(fleet)
        second_redis.stop()
        fleet.wait_until_applied()

    assert oracle.counts(server_alias) == [1]


@postgresql
def test_a_broker_that_is_down_at_launch_is_told_and_made_up_for(server_alias, second_redis):
    recover = ["massmigrate", "--recover", "--database", server_alias]
    second_redis.stop()
    with fleet_of(server_alias, second_redis.url, rows=500) as fleet:
        launched = fleet.run("massmigrate", "testapp", "0004_by_batch", "--detach", "--database", server_alias)
        status = fleet.status()
        again = fleet.run(*recover)
        still = fleet.status()
        second_redis.start_again()
        wait_until(lambda: "sent 1 stuck job again" in fleet.run(*recover).stdout, timeout=SLOW)
        fleet.start(1)
        fleet.wait_until_applied()

    assert "could not be sent" in launched.stdout
    assert "manage.py massmigrate --recover" in launched.stdout
    assert (status, still) == ("queued", "queued")
    assert again.returncode == 1
    assert "could not be sent" in again.stderr
    assert oracle.verbs(server_alias) == ["launch", "not sent", "sent", "plan", "applied"]


@postgresql
def test_what_is_no_job_is_dropped_and_a_job_without_its_migration_goes_back(server_alias, redis_url):
    payload = {"v": 1, "kind": "plan", "db_alias": server_alias, "attempt_id": "4b1f5d4e-7f0c-4a52-8f5e-0a4b1f5d4e7f"}
    with fleet_of(server_alias, redis_url, rows=500, LEASE=1) as fleet:
        (worker,) = fleet.start(1)
        tasks.job.apply_async(("not JSON",))
        tasks.job.apply_async((json.dumps({**payload, "v": 99, "key": KEY}),))
        tasks.job.apply_async((json.dumps({**payload, "key": "testapp:0999_unknown"}),))
        record = MigrationRecord.objects.using(server_alias).create(
            key="testapp:0998_undeployed", status=Status.QUEUED, is_managed=True
        )
        known = {**payload, "key": record.key, "attempt_id": str(record.attempt_id)}
        tasks.job.apply_async((json.dumps(known),))
        wait_until(lambda: worker.log.read_text().count("received") >= 6, timeout=SLOW)
        log = worker.log.read_text()
        record.delete()
        api.launch(KEY, server_alias)
        fleet.wait_until_applied()

    assert log.count("which is not a job") == 1
    assert log.count("Found a job of version 99") == 1
    assert log.count("'testapp:0999_unknown', which is not active on database") == 1
    assert log.count("and returns its jobs to the queue") == 1
    assert "Traceback" not in log
