import re
from functools import partial

import pytest
from asgiref.sync import async_to_sync
from django.db import connections
from django.test.utils import CaptureQueriesContext

from massmigration.definitions.base import SimpleMigration
from massmigration.enforcement import decorators, migration_is_applied, requirements, requires_migration
from massmigration.exceptions import (
    DatabaseNotAllowed,
    RecordsUnreadable,
    RequiredMigrationNotApplied,
)
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status

KEY = "testapp:0001_once"
NOT_APPLIED = [None, *(status for status in Status if status != Status.APPLIED)]

requires = partial(requires_migration, skip_in_tests=False)


@pytest.fixture
def on_two(server_alias):
    """A migration that is allowed on two databases."""
    with store.registered(TwoDatabases(server_alias)):
        yield server_alias


class TwoDatabases(SimpleMigration):
    def __init__(self, other):
        super().__init__("testapp", "0900_two")
        self.allowed_db_aliases = ["default", other]


def make_record(db_alias, status=Status.APPLIED, key=KEY):
    MigrationRecord.objects.using(db_alias).create(key=key, status=status)


def queries(db_alias):
    return CaptureQueriesContext(connections[db_alias])


class Forms:
    """Every kind of code that can be decorated, each as a function without arguments that returns 42."""

    @staticmethod
    def function(decorator):
        return decorator(lambda: 42)

    @staticmethod
    def arguments(decorator):
        @decorator
        def decorated(first, *, second):
            return first + second

        return lambda: decorated(40, second=2)

    @staticmethod
    def method(decorator):
        class Example:
            answer = 42

            @decorator
            def decorated(self):
                return self.answer

        return Example().decorated

    @staticmethod
    def static_method(decorator):
        class Example:
            @decorator
            @staticmethod
            def decorated():
                return 42

        return Example().decorated

    @staticmethod
    def class_method(decorator):
        class Example:
            answer = 42

            @decorator
            @classmethod
            def decorated(cls):
                return cls.answer

        return Example.decorated

    @staticmethod
    def whole_class(decorator):
        @decorator
        class Example:
            answer = 42

        return lambda: Example().answer

    @staticmethod
    def callable_object(decorator):
        return decorator(partial(int, "42"))

    @staticmethod
    def async_function(decorator):
        @decorator
        async def decorated():
            return 42

        return async_to_sync(decorated)

    @staticmethod
    def async_method(decorator):
        class Example:
            answer = 42

            @decorator
            async def decorated(self):
                return self.answer

        return async_to_sync(Example().decorated)


@pytest.mark.parametrize("form", [name for name in vars(Forms) if not name.startswith("_")])
@pytest.mark.parametrize("identifier", [KEY, ("testapp", "0001_once"), ["testapp", "0001_once"]], ids=repr)
def test_it_runs_from_the_moment_the_migration_is_applied(db_alias, form, identifier):
    decorated = getattr(Forms, form)(requires(identifier, db_aliases=[db_alias]))

    with pytest.raises(RequiredMigrationNotApplied):
        decorated()
    make_record(db_alias)

    assert decorated() == 42


@pytest.mark.parametrize("form", ["function", "async_function"])
def test_the_second_call_costs_no_query(db_alias, form):
    make_record(db_alias)
    decorated = getattr(Forms, form)(requires(KEY, db_aliases=[db_alias]))

    with queries(db_alias) as first:
        decorated()
    with queries(db_alias) as second:
        decorated()

    assert (len(first), len(second)) == (1, 0)


@pytest.mark.parametrize("status", NOT_APPLIED, ids=str)
@pytest.mark.parametrize("form", ["function", "async_function"])
def test_nothing_but_applied_passes(db_alias, form, status):
    if status:
        make_record(db_alias, status)
    decorated = getattr(Forms, form)(requires(KEY, db_aliases=db_alias))

    with pytest.raises(
        RequiredMigrationNotApplied, match=f"'{db_alias}' it {f'is {status.value}' if status else 'has not been run'}"
    ):
        decorated()


def test_it_stops_when_the_record_is_forgotten(db_alias, settings):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = 0
    make_record(db_alias)
    decorated = Forms.function(requires(KEY, db_aliases=[db_alias]))
    decorated()

    MigrationRecord.objects.using(db_alias).all().delete()

    with pytest.raises(RequiredMigrationNotApplied):
        decorated()


def test_by_default_it_must_be_applied_wherever_it_is_allowed(on_two):
    decorated = Forms.function(requires("testapp:0900_two"))
    make_record("default", key="testapp:0900_two")

    with pytest.raises(RequiredMigrationNotApplied, match=f"On database '{on_two}' it has not been run"):
        decorated()
    make_record(on_two, key="testapp:0900_two")

    assert decorated() == 42


@pytest.mark.parametrize("give", [lambda alias: alias, lambda alias: [alias], lambda alias: (alias,)])
def test_it_can_be_required_on_one_database_of_two(on_two, give):
    decorated = Forms.function(requires("testapp:0900_two", give("default")))
    make_record("default", key="testapp:0900_two")

    assert decorated() == 42


def test_a_database_it_is_not_allowed_on_is_refused_in_tests_too(on_two):
    decorated = Forms.function(requires_migration("testapp:0900_two", ["default", "elsewhere"]))

    with pytest.raises(DatabaseNotAllowed, match="'testapp:0900_two' is not allowed on database 'elsewhere'"):
        decorated()


def test_the_message_says_what_was_found_and_what_to_run(on_two):
    decorated = Forms.method(requires("testapp:0900_two"))
    make_record("default", Status.FAILED, key="testapp:0900_two")
    make_record(on_two, Status.PAUSED, key="testapp:0900_two")

    with pytest.raises(RequiredMigrationNotApplied) as caught:
        decorated()

    text = re.sub(r"^\S+test_decorators\.", "", str(caught.value))
    assert text == (
        "Forms.method.<locals>.Example.decorated requires migration 'testapp:0900_two'. "
        "On database 'default' it is failed; it must be applied. "
        "Run: manage.py massmigrate testapp 0900_two --database default. "
        f"On database '{on_two}' it is paused; it must be applied. "
        f"Run: manage.py massmigrate testapp 0900_two --database {on_two}"
    )


def test_on_a_new_database_the_message_says_how_to_apply_all(db_alias):
    decorated = Forms.function(requires(KEY, db_alias))

    with pytest.raises(RequiredMigrationNotApplied, match=f"If it is new, .*massmigrate --database {db_alias}$"):
        decorated()


@pytest.mark.parametrize("form", ["function", "async_function"])
def test_a_missing_table_says_to_migrate(db_alias, form, monkeypatch):
    decorated = getattr(Forms, form)(requires(KEY, db_aliases=[db_alias]))
    monkeypatch.setattr(MigrationRecord._meta, "db_table", "massmigration_absent")

    with pytest.raises(RequiredMigrationNotApplied, match=f"Run: manage.py migrate --database {db_alias}$"):
        decorated()


def test_it_is_skipped_in_tests_without_a_query(db_alias):
    decorated = Forms.function(requires_migration(KEY, [db_alias]))

    with queries(db_alias) as captured:
        result = decorated()

    assert (result, len(captured)) == (42, 0)


def test_outside_of_tests_it_is_not_skipped(db_alias, monkeypatch):
    monkeypatch.setattr(requirements, "is_running_tests", lambda: False)
    decorated = Forms.function(requires_migration(KEY, [db_alias]))

    with pytest.raises(RequiredMigrationNotApplied):
        decorated()


def test_async_code_is_not_kept_by_a_thread_the_second_time(db_alias, monkeypatch):
    @requires_migration(KEY, db_alias, skip_in_tests=False)
    async def code():
        return "run"

    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.APPLIED)
    async_to_sync(code)()
    monkeypatch.setattr(decorators, "sync_to_async", None)

    assert async_to_sync(code)() == "run"


def test_migration_is_applied_is_asked_for_once(db_alias):
    make_record(db_alias)

    with queries(db_alias) as captured:
        answers = [migration_is_applied(("testapp", "0001_once"), db_alias) for _ in range(3)]

    assert (answers, len(captured)) == ([True, True, True], 1)


@pytest.mark.parametrize("status", NOT_APPLIED, ids=str)
def test_migration_is_applied_is_false_otherwise(db_alias, status):
    if status:
        make_record(db_alias, status)

    assert migration_is_applied(KEY, db_alias) is False


def test_migration_is_applied_says_to_migrate(db_alias, monkeypatch):
    monkeypatch.setattr(MigrationRecord._meta, "db_table", "massmigration_absent")

    with pytest.raises(RecordsUnreadable, match=f"migrate --database {db_alias}$"):
        migration_is_applied(KEY, db_alias)


def test_the_decorated_function_keeps_its_name():
    @requires_migration(KEY)
    def example():
        """Its docstring."""  # wording: allow

    assert (example.__name__, example.__doc__) == ("example", "Its docstring.")
