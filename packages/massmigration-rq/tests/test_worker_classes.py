import pytest
from django.db import connections
from rq.timeouts import TimerDeathPenalty

from massmigration import worker
from massmigration_rq import SimpleWorker
from massmigration_rq.workers import PAUSE


class Recovering(SimpleWorker):
    """A worker that does not change the signal handlers of the tests' process."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self):
        pass


@pytest.fixture
def recovering(queue):
    return Recovering([queue], connection=queue.connection, serializer=queue.serializer)


@pytest.fixture
def asked(monkeypatch):
    """The calls of the core's recovery, which fails."""
    asked = []

    def refuse(**kwargs):
        asked.append(kwargs)
        raise OSError("no database")

    monkeypatch.setattr(worker, "recover", refuse)
    return asked


def test_a_worker_recovers_before_its_first_job_and_goes_on_when_that_fails(recovering, queue, asked, caplog):
    queue.enqueue(max, 1, 2)

    assert recovering.work(burst=True) is True
    assert asked[0] == {"at_most_once_a_lease": True}
    assert len(asked) > 1
    assert "It will run again later" in caplog.text


def test_what_rq_cleans_up_is_cleaned_up_as_often_as_before(recovering, asked, monkeypatch):
    cleaned = []
    clean = recovering.clean_registries
    monkeypatch.setattr(recovering, "clean_registries", lambda: cleaned.append(clean()))

    recovering.run_maintenance_tasks()
    recovering.run_maintenance_tasks()

    assert (len(cleaned), len(asked)) == (1, 2)


def test_no_connection_is_left_open_for_a_fork_to_inherit(server_alias, recovering):
    connections[server_alias].ensure_connection()

    recovering.run_maintenance_tasks()

    assert connections[server_alias].connection is None


def test_an_idle_worker_looks_every_few_seconds(recovering):
    assert recovering.dequeue_timeout == PAUSE
