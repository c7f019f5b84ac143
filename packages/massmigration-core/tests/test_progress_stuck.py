import datetime as dt
from types import SimpleNamespace

import pytest

from massmigration.conf import settings
from massmigration.progress import SOON, idle_time, is_stuck
from massmigration.states import Status

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
LONG_AGO = NOW - dt.timedelta(hours=1)
PATIENCE = settings.LEASE + SOON


def record(status=Status.RUNNING, **fields):
    values = {"is_managed": True, "now": NOW, "started_at": None, "launched_at": NOW, **fields}
    return SimpleNamespace(status=status, **values)


@pytest.mark.parametrize(
    ("overdue", "held", "beat", "stuck"),
    [
        (1, 2, NOW, True),
        (0, 1, LONG_AGO, False),
        (0, 0, NOW - PATIENCE, False),
        (0, 0, NOW - PATIENCE - SOON, True),
    ],
    ids=["one lease overdue", "a long batch", "nobody yet", "nobody for too long"],
)
def test_it_is_stuck_when_a_lease_has_run_out_or_nobody_came(overdue, held, beat, stuck):
    assert is_stuck(record(), overdue=overdue, held=held, beat=beat) is stuck


@pytest.mark.parametrize(("due", "stuck"), [(NOW + SOON, False), (NOW - SOON - SOON, True), (None, True)])
def test_what_a_throttle_has_told_to_wait_is_not_stuck_before_that(due, stuck):
    assert is_stuck(record(), overdue=0, held=0, beat=LONG_AGO, due=due) is stuck


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.RUNNING, Status.QUEUED}))
def test_what_does_not_run_is_not_stuck(status):
    assert not is_stuck(record(status), overdue=1, held=1, beat=LONG_AGO)


def test_one_that_runs_itself_has_nobody_to_wait_for():
    assert not is_stuck(record(is_managed=False), overdue=0, held=0, beat=LONG_AGO)


@pytest.mark.parametrize(
    ("beat", "fields", "since"),
    [
        (NOW - SOON, {"started_at": LONG_AGO}, SOON),
        (None, {"started_at": LONG_AGO}, NOW - LONG_AGO),
        (None, {"launched_at": LONG_AGO}, NOW - LONG_AGO),
        (None, {"launched_at": None}, dt.timedelta(0)),
    ],
    ids=["checkpoint", "start", "launch", "unknown"],
)
def test_it_has_waited_since_the_last_sign_of_work(beat, fields, since):
    assert idle_time(record(**fields), beat) == since
