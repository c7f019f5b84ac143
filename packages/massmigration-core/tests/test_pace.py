import datetime as dt

import pytest

from massmigration.executor import pace as module
from massmigration.executor.pace import SQLITE_GAP, Pace


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0
        slept = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.slept += seconds

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def limits(settings):
    settings.MASSMIGRATION_BATCH_SIZE = 500
    settings.MASSMIGRATION_BATCH_DURATION = dt.timedelta(seconds=1)


def make(db_alias, size=0, fixed_size=None):
    return Pace(db_alias, size=size, max_size=5000, fixed_size=fixed_size)


def batch(pace, clock, seconds, count=None):
    pace.start()
    clock.now += seconds
    return pace.adapt(pace.size if count is None else count)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, 500), (0.8, 625), (2, 250), (0.001, 2000), (100, 250)],
    ids=["just-right", "faster", "slower", "four-times-at-most", "half-at-least"],
)
def test_a_batch_adapts_to_the_time_the_last_one_took(server_alias, clock, seconds, expected):
    assert batch(make(server_alias), clock, seconds) == expected


def test_batches_grow_to_the_limit_and_no_further(server_alias, clock):
    pace = make(server_alias)

    assert [batch(pace, clock, 0.01) for _ in range(3)] == [2000, 5000, 5000]


def test_batches_of_one_statement_begin_larger(server_alias, clock):
    pace = Pace(server_alias, size=0, max_size=50_000, fixed_size=None, is_statement=True)

    assert (pace.size, batch(pace, clock, 0.01)) == (5000, 20_000)


def test_what_other_batches_have_found_out_counts_for_statements_too(server_alias):
    pace = Pace(server_alias, size=40, max_size=50_000, fixed_size=None, is_statement=True)

    assert pace.size == 40


def test_batches_shrink_to_one_object_and_no_further(server_alias, clock):
    pace = make(server_alias, size=4)

    assert [batch(pace, clock, 60) for _ in range(4)] == [2, 1, 1, 1]


def test_a_batch_that_was_not_full_says_nothing(server_alias, clock):
    assert batch(make(server_alias), clock, 0.01, count=20) == 500


def test_a_fixed_size_stays(server_alias, clock):
    assert batch(make(server_alias, size=7, fixed_size=30), clock, 60) == 30


def test_a_shard_goes_on_with_the_size_it_had(server_alias, clock):
    assert make(server_alias, size=77).size == 77


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_batches_are_shorter_on_sqlite(db_alias, clock):
    assert batch(make(db_alias), clock, 0.5) == 250


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_there_is_a_gap_for_other_writers_once_a_second(db_alias, clock):
    pace = make(db_alias)
    gaps = []
    for _ in range(9):
        batch(pace, clock, 0.25)
        pace.make_room()
        gaps.append(round(clock.slept / SQLITE_GAP))

    assert gaps == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_a_server_needs_no_gap(server_alias, clock):
    make(server_alias).make_room()

    assert clock.slept == 0
