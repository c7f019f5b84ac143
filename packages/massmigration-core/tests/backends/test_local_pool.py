import os
import threading

import pytest

from massmigration.backends.local import Pool
from testsupport.threads import PATIENCE


@pytest.fixture
def pool():
    return Pool(size=1)


def test_calls_run_when_they_are_due_and_in_order_of_arrival(pool):
    ran = []

    with pool._changed:
        pool.put(lambda: ran.append("late"), 0.1)
        pool.put(lambda: ran.append("first"))
        pool.put(lambda: ran.append("second"))

    assert pool.wait_until_idle(PATIENCE)
    assert ran == ["first", "second", "late"]


def test_no_more_calls_run_at_once_than_there_are_threads():
    pool, together = Pool(size=3), []
    running, lock = [], threading.Lock()

    def run():
        with lock:
            running.append(1)
            together.append(len(running))
        with lock:
            running.pop()

    for _ in range(50):
        pool.put(run)

    assert pool.wait_until_idle(PATIENCE)
    assert len(together) == 50
    assert max(together) <= 3


def test_stop_waits_for_what_runs_and_forgets_what_waits(pool):
    begun, ran = threading.Event(), []

    def run():
        begun.set()
        while not pool.is_stopping:
            begun.wait(0.01)
        ran.append("running")

    pool.put(run)
    pool.put(lambda: ran.append("waiting"))
    assert begun.wait(PATIENCE)

    assert pool.stop(PATIENCE)
    assert ran == ["running"]


def test_stop_gives_up_on_what_does_not_end(pool):
    begun, end = threading.Event(), threading.Event()
    pool.put(lambda: (begun.set(), end.wait(PATIENCE)))
    assert begun.wait(PATIENCE)

    assert not pool.stop(0.01)

    end.set()


def test_a_stopped_pool_runs_nothing_until_it_is_resumed(pool):
    ran = []
    pool.stop()
    pool.put(lambda: ran.append("later"))

    assert not pool.wait_until_idle(0.05)
    assert ran == []

    pool.resume()

    assert pool.wait_until_idle(PATIENCE)
    assert ran == ["later"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_runs_its_own_calls_and_not_those_of_its_parent(pool):
    begun, end = threading.Event(), threading.Event()
    read, write = os.pipe()
    pool.put(lambda: (begun.set(), end.wait(PATIENCE)))
    pool.put(lambda: os.write(write, b"parent"))
    assert begun.wait(PATIENCE)

    child = os.fork()
    if not child:
        pool.put(lambda: os.write(write, b"child"))
        os._exit(0 if pool.wait_until_idle(PATIENCE) else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"child"

    end.set()

    assert pool.wait_until_idle(PATIENCE)
    assert os.read(read, 100) == b"parent"
