import dataclasses
import datetime as dt

import pytest

from massmigration.definitions import validation
from massmigration.definitions.stages import MappedStage, StageOptions
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import BaseMigration, MapperMigration
from massmigration.operations import DeleteModelData, MapFunctionOnObjects, OperationsMigration

OPTIONS = {
    "atomic": False,
    "idle_limit": dt.timedelta(hours=1),
    "throttle": [print],
    "batch_size": 3,
    "first_batch_size": 4,
    "batch_duration": dt.timedelta(milliseconds=100),
    "max_batch_size": 2000,
    "max_batch_growth": 1.5,
    "pace": "steady",
    "on_error": "continue",
    "max_failures": 5,
    "max_consecutive_failures": 6,
    "max_failure_rate": 0.25,
    "lock_rows": False,
    "catch_up": False,
}


ALL = {name: value for name, value in OPTIONS.items() if name != "first_batch_size"}
"""All options that a stage can have together: `batch_size` is the size of the first batch, too."""


def get_queryset(self, db_alias):
    raise NotImplementedError


def operation(self, obj, db_alias):
    raise NotImplementedError


def mapper(**options):
    attributes = {"get_queryset": get_queryset, "operation": operation, **options}
    return type("Migration", (MapperMigration,), attributes)("people", "0001_x")


def operations(**options):
    attributes = {"operations": [MapFunctionOnObjects("people.Person", print, update_fields=["name"])], **options}
    return type("Migration", (OperationsMigration,), attributes)("people", "0001_x")


def own_stages(**options):
    class Migration(BaseMigration):
        def get_stages(self):
            return [self.mapped(get_queryset=print, operation=print, **options)]

    return Migration("people", "0001_x")


WAYS = pytest.mark.parametrize("write", [mapper, operations, own_stages], ids=lambda write: write.__name__)


def test_every_option_is_tried_here():
    assert OPTIONS.keys() == {field.name for field in dataclasses.fields(StageOptions)}


@WAYS
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_the_stages(write, name):
    (stage,) = write(**{name: OPTIONS[name]}).get_stages()

    assert getattr(stage, name) == OPTIONS[name]


@WAYS
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_one_default(write, name):
    (stage,) = write().get_stages()

    assert getattr(stage, name) == getattr(StageOptions(), name)


@WAYS
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_error", "skip", "on_error = 'skip'; allowed: 'stop', 'continue'."),
        ("batch_size", 0, "batch_size = 0; it must be 1 or more, or None."),
        ("batch_size", "7", "batch_size = '7'; it must be 1 or more, or None."),
        ("first_batch_size", 0, "first_batch_size = 0; it must be 1 or more, or None."),
        ("first_batch_size", "7", "first_batch_size = '7'; it must be 1 or more, or None."),
        ("batch_duration", 5, "batch_duration = 5; it must be a timedelta greater than 0, or None."),
        ("max_batch_size", 0, "max_batch_size = 0; it must be 1 or more, or None."),
        ("max_batch_growth", 1, "max_batch_growth = 1; it must be greater than 1, or None."),
        ("max_batch_growth", True, "max_batch_growth = True; it must be greater than 1, or None."),
        ("pace", "fast", "pace = 'fast'; allowed: 'gentle', 'steady', 'full', None."),
        ("max_failures", -1, "max_failures = -1; it must be 0 or more, or None."),
        ("max_consecutive_failures", 0, "max_consecutive_failures = 0; it must be 1 or more, or None."),
        ("max_failure_rate", 1.1, "max_failure_rate = 1.1; it must be a number from 0 to 1, or None."),
        ("max_failure_rate", -0.1, "max_failure_rate = -0.1; it must be a number from 0 to 1, or None."),
        ("max_failure_rate", "0.5", "max_failure_rate = '0.5'; it must be a number from 0 to 1, or None."),
        ("max_failure_rate", True, "max_failure_rate = True; it must be a number from 0 to 1, or None."),
        ("atomic", "no", "atomic = 'no'; allowed: True, False."),
        ("lock_rows", 3, "lock_rows = 3; allowed: True, False."),
        ("catch_up", None, "catch_up = None; allowed: True, False."),
        ("idle_limit", 5, "idle_limit = 5; it must be a timedelta greater than 0, or None."),
        ("throttle", None, "throttle = None; it must be a list of callables."),
        ("throttle", ["slow"], "throttle = ['slow']; it must be a list of callables."),
    ],
)
def test_an_impossible_value_is_refused(write, name, value, words):
    with pytest.raises(BadMigrationFile) as caught:
        write(**{name: value}).get_stages()

    assert str(caught.value) == f"Migration 'people:0001_x' has {words}"


@pytest.mark.parametrize("write", [mapper, operations], ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_code_change", "puase", "on_code_change = 'puase'; allowed: 'event', 'pause'."),
        ("on_fresh_database", None, "on_fresh_database = None; allowed: 'run', 'fake'."),
        ("queue_name", 5, "queue_name = 5; it must be a string."),
        ("runs_only_by_name", "yes", "runs_only_by_name = 'yes'; allowed: True, False."),
    ],
)
def test_an_impossible_value_of_the_migration_is_refused(write, name, value, words):
    with pytest.raises(BadMigrationFile) as caught:
        validation.validate_methods(write(**{name: value}))

    assert str(caught.value) == f"Migration 'people:0001_x' has {words}"


@WAYS
def test_a_batch_is_not_larger_than_the_largest(write):
    with pytest.raises(BadMigrationFile, match="has batch_size = 7 and max_batch_size = 5; batch_size is the size of"):
        write(batch_size=7, max_batch_size=5).get_stages()


@WAYS
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("batch_size", 7, "batch_size = 7 and first_batch_size = 8; batch_size is the size of every batch. Remove"),
        ("max_batch_size", 5, "first_batch_size = 8 and max_batch_size = 5; the first batch must not be larger than"),
    ],
)
def test_the_first_batch_has_one_size_and_is_not_larger_than_the_largest(write, name, value, words):
    with pytest.raises(BadMigrationFile, match=words):
        write(first_batch_size=8, **{name: value}).get_stages()


def test_a_stage_of_its_own_takes_the_options_as_arguments():
    stage = MappedStage(name="people:0001_x", get_queryset=print, operation=print, **ALL)

    assert {name: getattr(stage, name) for name in ALL} == ALL


def test_the_options_of_an_operation_come_before_those_of_its_migration():
    found = MapFunctionOnObjects("people.Person", print, ["name"], batch_size=7, on_error="stop")
    attributes = {**OPTIONS, "batch_size": None, "operations": [found]}

    (stage,) = type("Migration", (OperationsMigration,), attributes)("people", "0001_x").get_stages()

    assert (stage.batch_size, stage.first_batch_size, stage.on_error) == (7, None, "stop")
    assert stage.max_failures == OPTIONS["max_failures"]


def test_what_cannot_be_launched_asks_for_no_confirmation():
    attributes = {"operations": [DeleteModelData("people.Person")], "batch_size": 0}

    migration = type("Migration", (OperationsMigration,), attributes)("people", "0001_x")

    assert migration.confirmation == ""
