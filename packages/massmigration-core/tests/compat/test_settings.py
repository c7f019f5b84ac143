"""The settings that django-mass-migration had."""

import sys
from types import ModuleType

import pytest

from massmigration.backends import djangae, handler
from massmigration.exceptions import BadBackend
from massmigration.migrations import SimpleMigration

DJANGAE = "massmigration.backends.djangae.DjangaeBackend"
DUMMY = "massmigration.backends.dummy.DummyBackend"


def test_a_queue_alone_means_djangaes_backend(settings):
    settings.MASSMIGRATION_TASK_QUEUE = "tasks"

    assert SimpleMigration("testapp", "0099_it").backend_str == DJANGAE


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_setting_is_none(settings, value):
    settings.MASSMIGRATION_BACKEND = value

    assert SimpleMigration("testapp", "0099_it").backend_str == "massmigration.backends.local.LocalBackend"


def test_djangaes_backend_without_its_package_says_what_to_install(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "massmigration_djangae", None)
    settings.MASSMIGRATION_BACKEND = DJANGAE

    with pytest.raises(BadBackend, match="Run: pip install massmigration-djangae"):
        handler.get_backend()


def test_djangaes_backend_is_that_of_its_package(settings, monkeypatch):
    package = ModuleType("massmigration_djangae")
    package.DjangaeBackend = type("DjangaeBackend", (), {"run_mapper": None})
    monkeypatch.setitem(sys.modules, "massmigration_djangae", package)
    settings.MASSMIGRATION_BACKEND = DJANGAE

    assert type(handler.get_backend()) is package.DjangaeBackend


def test_the_module_has_nothing_else():
    assert not hasattr(djangae, "defer")


def test_the_queue_of_the_settings_is_an_option_of_the_backend(settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"colour": "red"}
    settings.MASSMIGRATION_TASK_QUEUE = "tasks"

    assert handler.get_backend().options == {"queue": "tasks", "colour": "red"}


def test_the_backends_own_options_go_before_the_queue_of_the_settings(settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"queue": "slow"}
    settings.MASSMIGRATION_TASK_QUEUE = "tasks"

    assert handler.get_backend().options == {"queue": "slow"}
