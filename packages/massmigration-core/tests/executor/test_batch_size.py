import dataclasses
import datetime as dt
import random
import types

import pytest

from massmigration.dialects import dialect_of
from massmigration.dialects.sqlite import GAP, SQLiteDialect
from massmigration.executor import job as job_module
from massmigration.executor import planner
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.jobs import Job, JobKind
from massmigration.migrations import MapperMigration
from massmigration.pace import NO_PACE
from testsupport.clocks import Clock
from testsupport.testapp.models import Item


@pytest.fixture
def clock(monkeypatch):
    return Clock.installed(monkeypatch)


@pytest.fixture(autouse=True)
def limits(settings, monkeypatch, batches_have_time):
    monkeypatch.setattr(SQLiteDialect, "max_batch_duration", dt.timedelta(milliseconds=250))
    settings.MASSMIGRATION_BATCH_SIZE = 500
    settings.MASSMIGRATION_BATCH_DURATION = dt.timedelta(seconds=1)


def make(db_alias, size=0, fixed_size=None):
    return AdaptiveBatchSize(db_alias, size=size, max_size=5000, fixed_size=fixed_size)


def batch(pace, clock, seconds, count=None, **how):
    pace.start()
    clock.now += seconds
    return pace.adapt(pace.size if count is None else count, **how)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, 500), (0.5, 1000), (2, 250), (0.001, 2000), (10, 125)],
    ids=["just-right", "faster", "slower", "four-times-at-most", "a-quarter-at-least"],
)
def test_a_batch_adapts_to_the_time_the_last_one_took(server_alias, clock, seconds, expected):
    assert batch(make(server_alias), clock, seconds) == expected


def test_batches_grow_to_the_limit_and_no_further(server_alias, clock):
    pace = make(server_alias)

    assert [batch(pace, clock, 0.01) for _ in range(3)] == [2000, 5000, 5000]


def test_batches_that_cannot_be_ended_early_begin_small(server_alias, clock):
    pace = AdaptiveBatchSize(server_alias, size=0, max_size=50_000, fixed_size=None, is_set=True)

    assert (pace.size, batch(pace, clock, 0.01)) == (10, 40)


def test_what_other_batches_have_found_out_counts_for_those_too(server_alias):
    pace = AdaptiveBatchSize(server_alias, size=400, max_size=50_000, fixed_size=None, is_set=True)

    assert pace.size == 400


def test_batches_shrink_to_one_object_and_no_further(server_alias, clock):
    pace = make(server_alias, size=4)

    assert [batch(pace, clock, 3 * pace.size) for _ in range(4)] == [1, 1, 1, 1]


def test_a_batch_that_was_not_full_says_nothing(server_alias, clock):
    assert batch(make(server_alias), clock, 0.01, count=20, is_last=True) == 500


def test_a_fixed_size_stays(server_alias, clock):
    assert batch(make(server_alias, fixed_size=30), clock, 60) == 30


def test_after_a_refusal_the_next_try_is_with_half_the_rows(server_alias, clock):
    pace = make(server_alias)
    pace.start()

    pace.halve()

    assert pace.size == 250


def test_a_refusal_before_the_batch_began_says_nothing_of_its_size(server_alias):
    pace = make(server_alias)

    pace.halve()

    assert pace.size == 500


def test_a_fixed_size_comes_back_after_a_refusal(server_alias, clock):
    pace = make(server_alias, fixed_size=30)
    pace.start()
    pace.halve()

    assert [pace.size, batch(pace, clock, 60), batch(pace, clock, 60)] == [15, 30, 30]


def test_a_shard_goes_on_with_the_size_it_had(server_alias, clock):
    assert make(server_alias, size=77).size == 77


def sizes_of(pace, clock, fixed, cost, *, batches=20, noise=lambda: 1.0):
    """Return the sizes of batches that take `fixed` seconds each, and `cost` seconds for each row."""
    sizes = []
    for _ in range(batches):
        sizes.append(pace.size)
        batch(pace, clock, (fixed + cost * pace.size) * noise())
    return sizes


@pytest.mark.parametrize(
    ("fixed", "cost", "expected"),
    [(0, 0.01, 100), (0.3, 0.001, 700), (0.8, 0.001, 800), (1.5, 0.001, 1500), (30, 0.001, 2000), (2, 1e-9, 5000)],
    ids=["none", "a-part", "almost-all", "more", "far-more", "all"],
)
def test_rows_take_about_as_long_as_what_a_batch_takes_anyway(server_alias, clock, fixed, cost, expected):
    assert sizes_of(make(server_alias), clock, fixed, cost)[-1] == pytest.approx(expected, rel=0.1)


def test_batches_stop_shrinking_when_that_saves_no_time_and_grow_again(server_alias, clock):
    assert sizes_of(make(server_alias), clock, 4, 0.0001, batches=6) == [500, 125, 250, 500, 1000, 2000]


@pytest.mark.parametrize("seed", range(5))
def test_batches_do_not_shrink_to_few_rows_where_times_vary(server_alias, clock, seed):
    vary = random.Random(seed)

    sizes = sizes_of(make(server_alias), clock, 2, 0.001, batches=60, noise=lambda: vary.uniform(0.8, 1.25))

    assert min(sizes[3:]) > 100
    assert sum(sizes) / len(sizes) > 500


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_costly_rows_stay_short_where_times_vary(server_alias, clock, seed):
    vary = random.Random(seed)

    sizes = sizes_of(make(server_alias), clock, 0.01, 0.002, batches=60, noise=lambda: vary.uniform(0.6, 1.6))

    assert max(sizes[1:]) < 1500  # 500 fit into the time of a batch
    assert sum(sizes) / len(sizes) < 750


def test_each_job_finds_out_anew_what_a_batch_takes_anyway(server_alias, clock):
    (*_, size) = sizes_of(make(server_alias), clock, 3, 0.001)

    assert sizes_of(make(server_alias, size=size), clock, 0.01, 0.001)[-1] == pytest.approx(990, rel=0.1)


def test_batches_that_take_a_whole_job_each_do_not_shrink_to_few_rows(server_alias, clock, settings):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(seconds=15)
    size = 5000
    for _ in range(5):
        size = batch(make(server_alias, size=size), clock, 20)

    assert size == 500


def test_after_a_batch_that_ended_early_the_next_has_as_many_rows_as_were_possible(server_alias, clock):
    assert batch(make(server_alias), clock, 1, count=8, is_early=True) == 8


def test_a_batch_of_fixed_size_that_ended_early_comes_back_to_it(server_alias, clock):
    pace = make(server_alias, fixed_size=30)

    assert batch(pace, clock, 1, count=8, is_early=True) == 8
    assert [batch(pace, clock, 0.5), batch(pace, clock, 0.5)] == [16, 30]


def test_a_batch_may_operate_until_its_time_is_over(server_alias, clock):
    pace = make(server_alias)
    pace.start()
    clock.now += 0.25
    pace.has_read()

    left = pace.deadline.at - clock.now

    clock.now += 0.5
    assert (left, pace.is_over()) == (0.75, False)
    clock.now += 0.25
    assert pace.is_over()


@pytest.mark.parametrize(("reading", "operating"), [(0.5, 0.5), (1, 1), (1.5, 1.5), (60, 2)])
def test_a_batch_may_operate_about_as_long_as_it_was_read(server_alias, clock, reading, operating):
    pace = make(server_alias)
    pace.start()
    clock.now += reading
    pace.has_read()

    assert pace.deadline.at - clock.now == operating


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_batches_are_shorter_on_sqlite(db_alias, clock):
    assert batch(make(db_alias), clock, 0.5) == 250


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_there_is_a_gap_for_other_writers_once_a_second(db_alias, clock):
    pace = make(db_alias)
    gaps = []
    for _ in range(9):
        batch(pace, clock, 0.25)
        pace.yield_write_lock()
        gaps.append(round(clock.slept / GAP))

    assert gaps == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_a_server_needs_no_gap(server_alias, clock):
    make(server_alias).yield_write_lock()

    assert clock.slept == 0


def test_a_stage_can_have_another_duration(server_alias, clock):
    pace = AdaptiveBatchSize(
        server_alias, size=0, max_size=5000, fixed_size=None, duration=dt.timedelta(milliseconds=100)
    )

    assert batch(pace, clock, 0.2) == 250


def test_a_stage_can_let_its_batches_grow_less(server_alias, clock):
    pace = AdaptiveBatchSize(server_alias, size=0, max_size=5000, fixed_size=None, max_growth=1.5)

    assert [batch(pace, clock, 0.001) for _ in range(3)] == [750, 1125, 1687]


@pytest.mark.parametrize("is_set", [False, True])
def test_a_stage_can_have_another_first_size(server_alias, is_set):
    options = {"max_size": 5000, "fixed_size": None, "first_size": 700, "is_set": is_set}

    assert AdaptiveBatchSize(server_alias, size=0, **options).size == 700
    assert AdaptiveBatchSize(server_alias, size=30, **options).size == 30


def test_a_first_size_is_never_larger_than_the_largest(server_alias):
    assert AdaptiveBatchSize(server_alias, size=0, max_size=600, fixed_size=None, first_size=700).size == 600


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_small_batch_grows_however_slowly(server_alias, clock, size):
    pace = AdaptiveBatchSize(server_alias, size=size, max_size=5000, fixed_size=None, max_growth=1.1)

    assert batch(pace, clock, 0.001) == size + 1


def test_a_low_growth_does_not_limit_how_a_batch_shrinks(server_alias, clock):
    pace = AdaptiveBatchSize(server_alias, size=0, max_size=5000, fixed_size=None, max_growth=1.1)

    assert batch(pace, clock, 10) == 125


class Stage(MapperMigration):
    first_batch_size = 300
    batch_duration = dt.timedelta(milliseconds=100)
    max_batch_size = 700
    max_batch_growth = 1.5

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        assert queryset.count() <= self.max_batch_size


def test_the_options_of_a_stage_reach_its_batches(server_alias, clock):
    (stage,) = Stage("testapp", "0001_x").get_stages()
    job = Job(kind=JobKind.SHARD, key="testapp:0001_x", db_alias=server_alias, attempt_id="")
    pace = job_module._pace(types.SimpleNamespace(job=job, batch_size=400, pace=NO_PACE), stage)

    assert [batch(pace, clock, 0.001) for _ in range(2)] == [600, 700]
    assert batch(pace, clock, 1) < 350
    assert job_module._pace(types.SimpleNamespace(job=job, batch_size=0, pace=NO_PACE), stage).size == 300


def test_the_largest_batch_of_a_stage_counts_for_its_shards(server_alias, settings, monkeypatch):
    monkeypatch.setattr(type(dialect_of(server_alias)), "estimated_table_rows", lambda self, model: 10_000)
    (stage,) = Stage("testapp", "0001_x").get_stages()
    counts = []
    transport = types.SimpleNamespace(split=lambda queryset, keyset, count: counts.append(count))

    planner._plan_of(dataclasses.replace(stage, is_statement=True), server_alias, transport)
    planner._plan_of(dataclasses.replace(stage, is_statement=True, max_batch_size=None), server_alias, transport)

    assert counts == [4, 1]
