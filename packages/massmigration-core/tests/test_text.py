import asyncio
import logging
import traceback

import pytest

from massmigration import api, text
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, unresolved
from testsupport.testapp.models import Place


class Mute:
    """An exception whose text cannot be computed."""

    def __str__(self):
        return None

    __repr__ = __str__


class Exiting(Exception):
    def __str__(self):
        raise SystemExit


class Ill(Exception):
    def __str__(self):
        return f"{self.missing}"


SAYINGS = {
    "str-is-none": (ValueError(Mute()), "ValueError whose str() raised TypeError"),
    "str-raises": (Ill(), "Ill whose str() raised AttributeError"),
    "str-exits": (Exiting(), "Exiting whose str() raised SystemExit"),
    "nul": (ValueError("a\x00b"), "a\\x00b"),
    "surrogate": (ValueError("a\ud800b"), "a\\ud800b"),
    "long": (ValueError("x" * 1_000_000), "x" * 1000),
}
says = pytest.mark.parametrize(("error", "part"), SAYINGS.values(), ids=SAYINGS)


@says
def test_a_description_never_raises_and_has_a_bound(error, part):
    described = text.described(error)

    assert part in described
    assert len(described.encode()) <= text.MAX_LINE + 10


@says
def test_a_traceback_never_raises_and_has_a_bound(error, part):
    assert len(text.traceback_of(error).encode()) <= text.MAX_TEXT + 10


def test_the_cut_is_shown():
    assert text.clean("abcdef", 4) == "abc…"


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def place(db_alias):
    return Place.objects.using(db_alias).create(name="a")


def raising(error, **attributes):
    """Return a mapper migration whose operation raises `error`."""

    def operation(self, obj, db_alias):
        raise error

    def get_queryset(self, db_alias):
        return Place.objects.all()

    return type("Migration", (MapperMigration,), {"operation": operation, "get_queryset": get_queryset, **attributes})


@says
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_an_object_whose_error_says_anything_fails(db_alias, place, monkeypatch, error, part, atomic):
    record = launch(register(monkeypatch, raising(error, atomic=atomic)), db_alias)

    failure = unresolved(db_alias)
    assert (record.status, failure.object_pk) == (Status.FAILED, [place.pk])
    assert part in failure.message
    assert part in record.last_error
    assert Event.objects.using(db_alias).filter(verb="failed", detail__contains=part[:100]).exists()


class Unsayable(Exception):
    def __str__(self):
        return "a\x00b\ud800"


def refuse(self, db_alias):
    raise Unsayable


def test_a_queryset_whose_error_the_database_would_refuse_fails_the_run(db_alias, place, monkeypatch):
    record = launch(register(monkeypatch, raising(None, get_queryset=refuse)), db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "Unsayable: a\\x00b\\ud800")


def test_a_count_of_what_remains_whose_error_the_database_would_refuse_fails_the_run(db_alias, place, monkeypatch):
    migration = raising(None, operation=lambda *arguments: None, remaining=refuse)

    record = launch(register(monkeypatch, migration), db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "Unsayable: a\\x00b\\ud800")


class Exit(BaseException):
    pass


BASES = {"cancelled": asyncio.CancelledError(), "generator-exit": GeneratorExit(), "own": Exit("x"), "exit": SystemExit}
bases = pytest.mark.parametrize("error", BASES.values(), ids=BASES)


@bases
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_what_is_no_exception_is_an_objects_failure(db_alias, place, monkeypatch, error, atomic):
    record = launch(register(monkeypatch, raising(error, atomic=atomic)), db_alias)

    assert (record.status, unresolved(db_alias).object_pk) == (Status.FAILED, [place.pk])
    assert "which would have ended its worker" in record.last_error


@bases
@pytest.mark.parametrize("name", ["get_queryset", "remaining"])
def test_what_is_no_exception_fails_the_run_wherever_it_is_raised(db_alias, place, monkeypatch, error, name):
    def leave(self, db_alias):
        if MigrationRecord.objects.using(db_alias).exists():  # the launch would refuse it
            raise error

    migration = raising(None, **{"operation": lambda *arguments: None, name: leave})

    record = launch(register(monkeypatch, migration), db_alias)

    assert record.status == Status.FAILED
    assert "which would have ended its worker" in record.last_error


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("plain läden", "plain läden"),
        ("a\nERROR forged\r\x1b[2J", "a\\nERROR forged\\r\\x1b[2J"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("\ud800\x00", "\\ud800\\x00"),
        (ValueError("a\nb"), "a\\nb"),
    ],
)
def test_a_line_of_a_log_stays_one(said, expected):
    assert text.line(said) == expected


def test_a_line_of_a_log_is_bounded():
    assert len(text.line("x" * 100_000)) == text.MAX_LINE


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 entities"), (1, "1 entity"), (2, "2 entities"), (1234, "1 234 entities")]
)
def test_a_noun_is_in_the_plural_unless_there_is_one(count, expected):
    assert text.counted(count, "entity", "entities") == expected


FORGED = "x\nERROR root: forged\r\x1b[2J"


class Forging(MapperMigration):
    """Raises at an object if the batch is processed as a whole, or when the object's value is written."""

    name_of_bad = ""

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        if self.name_of_bad in obj.name:
            raise ValueError(f"bad {FORGED}")


class ForgingStepwise(Forging):
    atomic = False


class ForgingByFields(Forging):
    atomic = False
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n = f"bad {FORGED}"


def test_the_name_of_a_user_is_kept_as_far_as_there_is_room_for_it(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE

    api.launch(register(monkeypatch, Forging), db_alias, actor="a\x00\ud800" + "n" * 300)

    (event,) = Event.objects.using(db_alias).filter(verb="launch")
    assert event.actor == MigrationRecord.objects.using(db_alias).get().launched_by
    assert event.actor.startswith("a\\x00\\ud800nnn")
    assert len(event.actor) <= 255


@pytest.mark.parametrize("way", [Forging, ForgingStepwise, ForgingByFields])
def test_neither_a_user_nor_an_error_begins_a_line_of_the_log(db_alias, monkeypatch, settings, caplog, way):
    caplog.set_level("DEBUG", logger="massmigration")
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Place.objects.using(db_alias).bulk_create(Place(name=f"place {number}") for number in range(3))
    key = register(monkeypatch, way)

    api.launch(key, db_alias, actor=FORGED)
    api.forget(key, db_alias, actor=FORGED)

    said = [record.getMessage() for record in caplog.records if record.name.startswith("massmigration")]
    assert [each for each in said if not each.isprintable()] == []
    assert any("bad x\\nERROR root: forged" in each for each in said)
    assert any("launch by x\\nERROR root: forged" in each for each in said)


def written(caplog):
    """Return the text that a log handler writes in UTF-8, with tracebacks."""
    formatter = logging.Formatter()
    return "".join(formatter.format(record) for record in caplog.records).encode().decode()


@pytest.mark.parametrize("attributes", [{"get_queryset": refuse}, {"remaining": refuse}], ids=["queryset", "remaining"])
def test_what_a_run_failed_with_can_be_written_to_a_log(db_alias, place, monkeypatch, caplog, attributes):
    launch(register(monkeypatch, raising(None, **{"operation": lambda *arguments: None, **attributes})), db_alias)

    assert "Traceback" in written(caplog)
    assert "Unsayable: a\\x00b\\ud800" in written(caplog)


class Unformatted(Exception):
    def __str__(self):
        return None


@pytest.mark.parametrize("error", [Unsayable(), Unformatted(), ValueError("a\ud800b")], ids=["nul", "none", "half"])
def test_an_error_that_no_log_takes_has_a_stand_in_with_its_traceback_and_causes(error):
    try:
        try:
            raise error
        except Exception as first:
            raise LookupError("second") from first
    except LookupError as second:
        found = text.logged(second)

    shown = "".join(traceback.format_exception(found))
    assert shown.encode()
    assert [type(found).__name__, type(found.__cause__).__name__] == ["LookupError", type(error).__name__]
    assert shown.count("Traceback") == 2


def test_an_error_that_a_log_takes_stays_as_it_is():
    error = ValueError("plain")

    assert text.logged(error) is error


@pytest.mark.parametrize(
    ("seconds", "shown"), [(2.6, "3 s"), (125, "2 min 5 s"), (4320, "1 h 12 min")], ids=["s", "min", "h"]
)
def test_durations_have_two_units(seconds, shown):
    assert text.duration(seconds) == shown


def test_thousands_stand_apart():
    assert text.number(1234567) == "1 234 567"
