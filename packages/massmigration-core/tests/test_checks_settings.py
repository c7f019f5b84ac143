import datetime as dt
import subprocess
import sys

import pytest

from massmigration import checks
from massmigration.conf import BaseSettings, Settings, register

DUMMY = "massmigration.backends.dummy.DummyBackend"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BACKEND", 3, "a non-empty string"),
        ("BACKEND_OPTIONS", ["queue"], "a dict"),
        ("BATCH_SIZE", 0, "a whole number, 1 or more"),
        ("BATCH_SIZE", True, "a whole number, 1 or more"),
        ("SHARDS", "8", "a whole number, 1 or more"),
        ("PACE", "fast", "one of 'gentle', 'steady', 'full'"),
        ("LEASE", 60, "a timedelta above zero"),
        ("LEASE", dt.timedelta(), "a timedelta above zero"),
        ("BATCH_DURATION", dt.timedelta(seconds=-1), "a timedelta above zero"),
        ("THROTTLE", "shop.throttle", "a list of callables, or of dotted paths of callables"),
        ("THROTTLE", ["no.such.thing"], "a list of callables, or of dotted paths of callables"),
        ("THROTTLE", ["os.path"], "a list of callables, or of dotted paths of callables"),
        ("MAX_FAILURE_RATE", 50, "a number from 0 to 1, or None"),
        ("MAX_FAILURE_RATE", True, "a number from 0 to 1, or None"),
        ("RECORD_CACHE_TIMEOUT", -1, "a timedelta or a number of seconds, not negative, or None"),
        ("RECORD_CACHE_TIMEOUT", dt.timedelta(-1), "a timedelta or a number of seconds, not negative, or None"),
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


@pytest.mark.parametrize("timeout", [0, 0.5, 60, dt.timedelta(minutes=1), None], ids=str)
def test_the_timeout_of_the_record_cache_may_be_a_number(settings, timeout):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = timeout

    assert checks.check() == []


def test_e008_a_task_queue_without_its_backend(settings, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda name: name != "massmigration_djangae")
    settings.MASSMIGRATION_TASK_QUEUE = "massmigration"

    (message,) = checks.check()

    assert message.id == "massmigration.E008"
    assert message.msg.startswith("MASSMIGRATION_TASK_QUEUE is set and MASSMIGRATION_BACKEND is not")
    assert "pip install massmigration-djangae" in message.hint


SET_UP = """
import sys
sys.modules["massmigration_djangae"] = None
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["massmigration"], DATABASES={}, SECRET_KEY="only for tests", **{SETTINGS}
)
from django.core.management import call_command
import django
django.setup()
call_command("check")
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"MASSMIGRATION_TASK_QUEUE": "tasks"}, "(massmigration.E008) MASSMIGRATION_TASK_QUEUE is set"),
        ({"MASSMIGRATION_BACKEND": "massmigration.backends.djangae.DjangaeBackend"}, "(massmigration.E004)"),
        ({"MASSMIGRATION_BACKEND": "this.antigravity"}, "(massmigration.E004)"),
    ],
    ids=["E008", "without its package", "not importable"],
)
def test_a_backend_that_cannot_be_imported_is_a_check_and_no_traceback_while_django_is_set_up(given, expected):
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.replace("{SETTINGS}", repr(given))], capture_output=True, text=True, check=False
    )

    assert expected in done.stderr
    assert "in setup" not in done.stderr


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

    assert message.msg == "MASSMIGRATION_TASK_QUEUE is 3; it must be a string or None."


class ArchiveSettings(BaseSettings):
    prefix = "MASSMIGRATION_ARCHIVE_"

    KEEP: dt.timedelta = dt.timedelta(days=7)
    MODE: str = "fast"

    @classmethod
    def problem_of(cls, name, value):
        if name == "MODE":
            return "" if value in ("fast", "slow") else "'fast' or 'slow'"
        return None


@pytest.fixture
def archive():
    assert register(ArchiveSettings) is register(ArchiveSettings) is ArchiveSettings
    return ArchiveSettings()


def test_a_setting_that_another_package_has_registered_is_known(settings, archive):
    settings.MASSMIGRATION_ARCHIVE_KEEP = dt.timedelta(days=1)
    settings.MASSMIGRATION_ARCHIVE_MODE = "slow"

    assert checks.check() == []
    assert (dt.timedelta(days=1), "slow") == (archive.KEEP, archive.MODE)


def test_a_registered_setting_has_a_default(archive):
    assert (dt.timedelta(days=7), "fast") == (archive.KEEP, archive.MODE)
    assert archive.given() == {}


def test_w003_a_setting_of_a_package_that_is_not_registered(settings):
    settings.MASSMIGRATION_ARCHIVE_KEEP = dt.timedelta(days=1)

    assert [message.id for message in checks.check()] == ["massmigration.W003"]


def test_w003_a_misspelled_setting_of_a_registered_package(settings, archive):
    settings.MASSMIGRATION_ARCHIVE_KEPT = 1

    (message,) = checks.check()

    assert (message.id, message.msg) == ("massmigration.W003", "There is no setting MASSMIGRATION_ARCHIVE_KEPT.")
    assert message.hint == "Did you mean MASSMIGRATION_ARCHIVE_KEEP?"


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("KEEP", 7, "a timedelta above zero"), ("MODE", "quick", "'fast' or 'slow'")]
)
def test_e006_a_registered_setting_of_the_wrong_kind(settings, archive, name, value, expected):
    setattr(settings, f"MASSMIGRATION_ARCHIVE_{name}", value)

    (message,) = checks.check()

    assert message.id == "massmigration.E006"
    assert message.msg == f"MASSMIGRATION_ARCHIVE_{name} is {value!r}; it must be {expected}."
    assert message.hint.startswith("The default is ")
