import datetime as dt

import pytest

from massmigration import checks
from massmigration.conf import Settings

DUMMY = "massmigration.backends.dummy.DummyBackend"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BACKEND", 3, "a text"),
        ("BACKEND_OPTIONS", ["queue"], "a dict"),
        ("BATCH_SIZE", 0, "a whole number, 1 or more"),
        ("BATCH_SIZE", True, "a whole number, 1 or more"),
        ("SHARDS", "8", "a whole number, 1 or more"),
        ("LEASE", 60, "a timedelta above zero"),
        ("LEASE", dt.timedelta(), "a timedelta above zero"),
        ("BATCH_DURATION", dt.timedelta(seconds=-1), "a timedelta above zero"),
        ("THROTTLE", "shop.throttle", "a list of callables, or of dotted paths of such that can be imported"),
        ("THROTTLE", ["no.such.thing"], "a list of callables, or of dotted paths of such that can be imported"),
        ("THROTTLE", ["os.path"], "a list of callables, or of dotted paths of such that can be imported"),
        ("RECORD_CACHE_TIMEOUT", -1, "a timedelta or a number of seconds, not negative"),
        ("RECORD_CACHE_TIMEOUT", None, "a timedelta or a number of seconds, not negative"),
        ("RECORD_CACHE_TIMEOUT", dt.timedelta(-1), "a timedelta or a number of seconds, not negative"),
    ],
)
def test_e006_a_setting_of_the_wrong_kind(settings, name, value, expected):
    setattr(settings, f"MASSMIGRATION_{name}", value)

    (message,) = checks.check()

    assert message.id == "massmigration.E006"
    assert message.msg == f"MASSMIGRATION_{name} is {value!r}; it must be {expected}."
    assert message.hint.startswith("The default is ")


@pytest.mark.parametrize("limit", [dt.timedelta(seconds=30), dt.timedelta(seconds=60)], ids=["shorter", "equal"])
def test_e006_an_idle_limit_that_is_not_longer_than_the_lease(settings, limit):
    settings.MASSMIGRATION_IDLE_LIMIT = limit

    (message,) = checks.check()

    assert message.id == "massmigration.E006"
    assert message.msg.startswith("MASSMIGRATION_IDLE_LIMIT is 0:0")
    assert "it must be longer than MASSMIGRATION_LEASE, which is 0:01:00" in message.msg


@pytest.mark.parametrize("name", [name for name in vars(Settings) if name.isupper()])
def test_every_default_passes(settings, name):
    setattr(settings, f"MASSMIGRATION_{name}", vars(Settings)[name])

    assert checks.check() == []


@pytest.mark.parametrize("timeout", [0, 0.5, 60, dt.timedelta(minutes=1)], ids=str)
def test_the_timeout_of_the_record_cache_may_be_a_number(settings, timeout):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = timeout

    assert checks.check() == []


def test_e008_a_task_queue_without_its_backend(settings, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda name: name != "massmigration_djangae")
    settings.MASSMIGRATION_TASK_QUEUE = "massmigration"

    (message,) = checks.check()

    assert message.id == "massmigration.E008"
    assert message.msg.startswith("MASSMIGRATION_TASK_QUEUE is set, and MASSMIGRATION_BACKEND is not")
    assert "pip install massmigration-djangae" in message.hint


def test_a_task_queue_alone_is_in_order_where_djangae_is_installed(settings, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda name: name == "massmigration_djangae")
    settings.MASSMIGRATION_TASK_QUEUE = "massmigration"

    assert list(checks.check_settings()) == []


def test_a_task_queue_is_in_order_beside_a_backend(settings, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda name: False)
    settings.MASSMIGRATION_TASK_QUEUE = "massmigration"
    settings.MASSMIGRATION_BACKEND = DUMMY

    assert list(checks.check_settings()) == []


@pytest.mark.parametrize(
    ("name", "near"), [("BATCHSIZE", "BATCH_SIZE"), ("LEASE_TIME", "LEASE"), ("TASK_QEUE", "TASK_QUEUE")]
)
def test_w003_an_unknown_setting(settings, name, near):
    setattr(settings, f"MASSMIGRATION_{name}", 1)

    (message,) = checks.check()

    assert message.id == "massmigration.W003"
    assert message.msg == f"There is no setting MASSMIGRATION_{name}."
    assert message.hint == f"Did you mean MASSMIGRATION_{near}?"


def test_e006_a_task_queue_that_is_no_text(settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_TASK_QUEUE = 3

    (message,) = checks.check()

    assert message.msg == "MASSMIGRATION_TASK_QUEUE is 3; it must be a text or None."
