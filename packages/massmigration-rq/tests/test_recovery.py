import pytest

from massmigration import api
from testsupport import oracle
from testsupport.fleet import SLOW
from testsupport.operators import leased_shards, pause_resume_and_cancel
from testsupport.rq_fleet import (
    BATCH,
    KEY,
    PAUSE,
    forking,
    launch,
    put_clock_forward,
    queue_of,
    recovering,
    recovering_plain,
    recovering_simple,
    simple,
)
from testsupport.worker_processes import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True),
]
ROWS = 8000
both = pytest.mark.parametrize("workers", [forking, simple])


@pytest.fixture
def waiting(queue):
    """The queue that the fleet's jobs go to."""
    return queue_of(queue.connection)


def begun(fleet, batches=2):
    wait_until(lambda: fleet.done() >= batches * BATCH, timeout=SLOW)


def die_in_a_run(fleet, *, workers):
    """Start workers and a run, and kill them all before it ends."""
    fleet.start(workers, pause=PAUSE)
    launch(fleet, ROWS)
    begun(fleet)
    for worker in fleet.alive():
        worker.freeze()
    for worker in fleet.alive():
        worker.kill()
    assert fleet.status() == "running"


def recover(fleet, waiting):
    """Run recovery by hand until it sends a job: the leases of killed workers must expire first."""
    arguments = ["massmigrate", "--recover", "--database", fleet.db_alias]
    wait_until(lambda: " 0 stuck" not in fleet.run(*arguments).stdout, timeout=SLOW)
    assert waiting.count


@both
def test_when_all_workers_are_killed_new_ones_go_on_with_what_waits(server_alias, redis_url, waiting, workers):
    with workers(server_alias, redis_url) as fleet:
        die_in_a_run(fleet, workers=2)
        assert waiting.count

        fleet.start(2)
        seconds = fleet.wait_until_applied()

    print(f"Applied {seconds:.1f} s after the new workers had started.")  # noqa: T201
    assert oracle.counts(server_alias) == [1]


@both
def test_what_died_with_the_last_job_is_sent_by_the_command(server_alias, redis_url, waiting, workers):
    with workers(server_alias, redis_url, SHARDS=1, JOB_DURATION=600) as fleet:
        die_in_a_run(fleet, workers=1)
        waiting.empty()  # removes jobs that were sent twice because this machine was slow

        recover(fleet, waiting)
        fleet.start()
        fleet.wait_until_applied()

    assert oracle.counts(server_alias) == [1]


@pytest.mark.parametrize(
    ("worker_class", "silence"), [("rq.Worker", 90), ("rq.SimpleWorker", 3660)], ids=["forking", "simple"]
)
def test_rq_delivers_by_itself_what_died_with_the_last_job(server_alias, redis_url, waiting, worker_class, silence):
    often = ["--maintenance-interval", "1", "--worker-ttl", "17"]
    with simple(server_alias, redis_url, *often, worker_class=worker_class, SHARDS=1, JOB_DURATION=600) as fleet:
        die_in_a_run(fleet, workers=1)
        waiting.empty()  # removes jobs that were sent twice because this machine was slow
        fleet.start()
        assert leased_shards(server_alias) == 1

        put_clock_forward(waiting.connection, silence)
        seconds = fleet.wait_until_applied()

    print(f"Applied {seconds:.1f} s after the job's last sign of life had expired.")  # noqa: T201
    assert oracle.counts(server_alias) == [1]


@both
def test_what_a_flushed_redis_has_lost_is_recovered_by_the_command(server_alias, redis_url, waiting, workers):
    with workers(server_alias, redis_url) as fleet:
        die_in_a_run(fleet, workers=2)
        waiting.connection.flushall()

        recover(fleet, waiting)
        fleet.start()
        fleet.wait_until_applied()

    assert oracle.counts(server_alias) == [1]


@pytest.mark.parametrize("workers", [recovering, recovering_plain, recovering_simple])
def test_what_a_flushed_redis_has_lost_is_recovered_by_a_worker_that_starts(server_alias, redis_url, waiting, workers):
    with workers(server_alias, redis_url) as fleet:
        die_in_a_run(fleet, workers=2)
        waiting.connection.flushall()

        fleet.start()
        seconds = fleet.wait_until_applied()

    print(f"Applied {seconds:.1f} s after the new worker had started.")  # noqa: T201
    assert oracle.counts(server_alias) == [1]


@both
def test_workers_live_through_a_flush(server_alias, redis_url, waiting, workers):
    with workers(server_alias, redis_url) as fleet:
        fleet.start(2, pause=PAUSE)
        launch(fleet, ROWS)
        begun(fleet)
        waiting.connection.flushall()
        fleet.hurry()
        # A job whose lease has not expired yet is sent by a later call: no job in the queue may be left to send it.
        wait_until(lambda: fleet.status() == "applied" or (api.recover(server_alias) and False), timeout=SLOW)

        assert len(fleet.alive()) == 2
    assert oracle.counts(server_alias) == [1]


@both
def test_pause_resume_and_cancel_come_from_another_process(server_alias, redis_url, waiting, workers):
    def one_more():
        fleet.start()
        wait_until(lambda: waiting.count == 0, timeout=SLOW)

    with workers(server_alias, redis_url, JOB_DURATION=600, BATCH_DURATION=600) as fleet:
        fleet.start(2, pause=2 * PAUSE)
        launch(fleet, 4 * ROWS)
        begun(fleet)
        pause_resume_and_cancel(fleet, batch=BATCH, one_more=one_more)


def test_operators_see_and_requeue_what_real_workers_gave_up(server_alias, redis_url, waiting):
    with forking(server_alias, redis_url, retries=0, SHARDS=1, JOB_DURATION=600) as fleet:
        (worker,) = fleet.start(pause=PAUSE)
        launch(fleet, ROWS)
        begun(fleet)
        assert worker.kill_children() == 1
        wait_until(lambda: len(waiting.failed_job_registry) == 1, timeout=SLOW)
        failed = [f"failed: massmigration {KEY}, shard 0 of stage 0"]
        # The job of the completion check, which waited for the shard, may be running meanwhile.
        wait_until(lambda: api.perform_backend_action("show_jobs", [KEY], server_alias) == failed, timeout=SLOW)
        said = api.perform_backend_action("requeue", [KEY], server_alias)
        fleet.hurry()
        fleet.wait_until_applied()

    assert said == ["Requeued 1 failed job in RQ's queue 'low'."]
    assert oracle.counts(server_alias) == [1]
