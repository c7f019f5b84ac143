from django.views.decorators.debug import sensitive_variables

from massmigration import text
from massmigration.migrations import MapperMigration
from massmigration.models import Event
from massmigration.redaction import REDACTED
from testsupport.inline_migrations import IMMEDIATE, launch, register, unresolved
from testsupport.testapp.models import Place

TOKEN = "s3cr3t-t0k3n"


@sensitive_variables("token", "pin", "blob")
def call_with(token, name, pin=7, blob=b"raw\xff"):
    raise ValueError(f"refused {token} of {name!r} {token!r} {pin} {blob!r}")


def call_within(name):
    try:
        call_with(TOKEN, name)
    except ValueError as error:
        raise RuntimeError(f"{name} failed: {error}") from error


class Careful(MapperMigration):
    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        call_within(obj.name)


def raised_by(call, *args):
    try:
        call(*args)
    except Exception as error:
        return error
    raise AssertionError


def test_the_values_of_sensitive_variables_are_neither_stored_nor_logged(db_alias, monkeypatch, settings, caplog):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Place.objects.using(db_alias).create(name="Rome")

    record = launch(register(monkeypatch, Careful), db_alias)

    failed = unresolved(db_alias)
    details = "".join(Event.objects.using(db_alias).values_list("detail", flat=True))
    assert failed.message == f"Rome failed: refused {REDACTED} of 'Rome' '{REDACTED}' {REDACTED} {REDACTED}"
    assert [TOKEN in each for each in (failed.traceback, record.last_error, details)] == [False] * 3
    assert "RuntimeError: Rome failed: refused *" in failed.traceback
    assert "raise ValueError(f" in failed.traceback
    assert TOKEN not in "".join(each.getMessage() for each in caplog.records)


def test_while_debugging_they_are_shown(settings):
    settings.DEBUG = True

    assert TOKEN in text.described(raised_by(call_within, "Rome"))


def test_what_is_not_named_is_kept():
    assert text.described(raised_by(int, "many")) == "ValueError: invalid literal for int() with base 10: 'many'"


def test_errors_that_came_of_each_other_are_gone_through_once():
    error = raised_by(call_with, TOKEN, "Rome")
    other = RuntimeError(TOKEN)
    error.__context__, other.__context__ = other, error

    assert TOKEN not in text.described(other)
    assert TOKEN not in text.traceback_of(other)
