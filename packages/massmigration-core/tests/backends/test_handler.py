import pytest

from massmigration.backends import handler
from massmigration.backends.dummy import DummyBackend
from massmigration.exceptions import BadBackend
from massmigration.loader import store
from massmigration.migrations import SimpleMigration

DUMMY = "massmigration.backends.dummy.DummyBackend"


@pytest.fixture(autouse=True)
def dummy(settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"queue": "slow", "colour": "red"}


@pytest.fixture
def migration():
    migration = SimpleMigration("testapp", "9002_own")
    with store.registered(migration):
        yield migration


class Unrelated:
    pass


def test_the_options_reach_the_backend():
    assert handler.get_backend().options == {"queue": "slow", "colour": "red"}


def test_a_backend_is_made_once():
    assert handler.get_backend() is handler.get_backend()


def test_a_change_of_the_settings_makes_it_again(settings):
    before = handler.get_backend()
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"queue": "fast"}

    assert handler.get_backend() is not before
    assert handler.get_backend().options == {"queue": "fast"}


def test_a_change_of_other_settings_does_not(settings):
    before = handler.get_backend()
    settings.LANGUAGE_CODE = "de"

    assert handler.get_backend() is before


class ReadsOtherSettings(DummyBackend):
    setting_prefixes = ("LANGUAGE_",)


def test_a_backend_names_the_other_settings_whose_change_makes_it_again(settings):
    settings.MASSMIGRATION_BACKEND = f"{__name__}.ReadsOtherSettings"
    before = handler.get_backend()
    settings.LANGUAGE_CODE = "de"

    assert handler.get_backend() is not before


def test_a_migration_without_wishes_shares_the_backend(migration):
    assert handler.backend_of(migration) is handler.get_backend()


def test_a_migration_may_name_its_backend(migration):
    migration.backend = "massmigration.backends.immediate.ImmediateBackend"

    assert type(handler.backend_of_job(migration.key, "")).__name__ == "ImmediateBackend"


def test_a_migration_may_name_its_queue_and_parameters(migration):
    migration.queue_name = "night"
    migration.backend_params = {"size": 2}

    assert handler.backend_of(migration).options == {"queue": "night", "colour": "red", "size": 2}
    assert handler.get_backend().options == {"queue": "slow", "colour": "red"}


def test_a_job_of_an_unknown_migration_goes_to_the_backend_of_its_record():
    path = "massmigration.backends.immediate.ImmediateBackend"

    assert type(handler.backend_of_job("testapp:9999_gone", path)).__name__ == "ImmediateBackend"


@pytest.mark.parametrize("path", ["nowhere.Backend", "massmigration.backends.dummy.Nobody", "Backend"])
def test_a_backend_that_cannot_be_imported_is_refused_by_name(path):
    with pytest.raises(BadBackend, match=f"{path!r} cannot be imported .* Set MASSMIGRATION_BACKEND"):
        handler.get_backend(path)


def test_what_is_no_backend_is_refused():
    with pytest.raises(BadBackend, match="is not a backend class"):
        handler.get_backend(f"{__name__}.Unrelated")


def test_the_dummy_keeps_what_is_sent_until_it_is_cleared():
    backend = DummyBackend()
    backend.send("one", None)

    assert backend.sent == [("one", None)]

    backend.clear()

    assert backend.sent == []
