import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

# RQ 1.16 warns of itself.
QUIET = pytest.mark.filterwarnings("ignore:The `[a-z]+_connection` function is deprecated:DeprecationWarning")


class InProcess(SimpleWorker):
    """A worker that does not change the signal handlers of the tests' process."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self):
        pass


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == item.config.rootpath / "packages/massmigration-rq/tests":
            item.add_marker(QUIET)


@pytest.fixture
def queue(redis_url):
    """A queue of a Redis that is emptied after the test."""
    with Redis.from_url(redis_url) as connection:
        yield Queue("tests", connection=connection)
        connection.flushdb()


@pytest.fixture
def work(queue):
    """Run a worker in this process until the queue is empty."""
    return lambda: InProcess([queue], connection=queue.connection, serializer=queue.serializer).work(burst=True)
