import logging
from functools import partial

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from massmigration.enforcement import RequiresMigrationMixin, requires_migration, view_requires_migration
from massmigration.exceptions import MigrationNotFound, RequiredMigrationNotApplied
from massmigration.models import MigrationRecord
from massmigration.states import Status

KEY = "testapp:0001_once"

requires = partial(view_requires_migration, KEY, skip_in_tests=False)


@pytest.fixture(params=["sync", "async"])
def visit(request, settings):
    """Serve a view, and get it as a browser does, through Django's WSGI or ASGI handler."""

    def get(view, **options):
        settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [path("", view)]})
        if request.param == "sync":
            return Client(**options).get("/")
        return fetched(AsyncClient(**options))

    return get


@async_to_sync
async def fetched(client):
    return await client.get("/")


class Plain(View):
    def get(self, request):
        return HttpResponse("ran")


class Async(View):
    async def get(self, request):
        return HttpResponse("ran")


class OwnDispatch(View):
    def dispatch(self, request):
        return super().dispatch(request)

    async def get(self, request):
        return HttpResponse("ran")


class AsyncDispatch(View):
    async def dispatch(self, request):
        return await super().dispatch(request)

    async def get(self, request):
        return HttpResponse("ran")


def function(request):
    return HttpResponse("ran")


async def async_function(request):
    return HttpResponse("ran")


CLASSES = [Plain, Async, OwnDispatch, AsyncDispatch]


def on_a_method(decorator):
    class Example(View):
        @method_decorator(decorator)
        def get(self, request):
            return HttpResponse("ran")

    return Example.as_view()


def with_bare_decorator_on_dispatch(decorator):
    class Example(Async):
        @decorator
        def dispatch(self, request):
            return super().dispatch(request)

    return Example.as_view()


FORMS = {
    "function": lambda decorator: decorator(function),
    "async function": lambda decorator: decorator(async_function),
    "method": on_a_method,
    "bare dispatch": with_bare_decorator_on_dispatch,
    **{
        f"{each.__name__} class": lambda decorator, each=each: decorator(type("Example", (each,), {})).as_view()
        for each in CLASSES
    },
    **{f"{each.__name__} as_view": lambda decorator, each=each: decorator(each.as_view()) for each in CLASSES},
    **{
        f"{each.__name__} method_decorator": lambda decorator, each=each: method_decorator(decorator, name="dispatch")(
            type("Example", (each,), {})
        ).as_view()
        for each in CLASSES
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [None, Status.FAILED, Status.RUNNING], ids=str)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_a_view_is_unavailable_until_the_migration_is_applied(db_alias, visit, form, status):
    view = FORMS[form](requires(db_aliases=[db_alias]))
    if status:
        MigrationRecord.objects.using(db_alias).create(key=KEY, status=status)

    refused = visit(view)
    MigrationRecord.objects.using(db_alias).update_or_create(key=KEY, defaults={"status": Status.APPLIED})
    answered = visit(view)

    assert (refused.status_code, answered.status_code, answered.content) == (503, 200, b"ran")


OTHER = "testapp:0002_by_object"


def with_two_in_a_list(base, db_alias):
    guards = [view_requires_migration(key, [db_alias], skip_in_tests=False) for key in (KEY, OTHER)]
    return method_decorator(guards, name="dispatch")(type("Example", (base,), {})).as_view()


def with_two_in_the_mixin(base, db_alias):
    own = {"required_migrations": [KEY, OTHER], "required_on": [db_alias], "skip_in_tests": False}
    return type("Example", (RequiresMigrationMixin, base), own).as_view()


def with_two_given_to_as_view(base, db_alias):
    example = type("Example", (RequiresMigrationMixin, base), {})
    return example.as_view(required_migrations=[KEY, OTHER], required_on=[db_alias], skip_in_tests=False)


@pytest.mark.parametrize("base", CLASSES)
@pytest.mark.parametrize("form", [with_two_in_a_list, with_two_in_the_mixin, with_two_given_to_as_view])
def test_a_view_may_require_several(db_alias, visit, form, base, caplog):
    view = form(base, db_alias)

    answers = [visit(view)]
    for key in (KEY, OTHER):
        MigrationRecord.objects.using(db_alias).create(key=key, status=Status.APPLIED)
        answers.append(visit(view))

    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert caplog.text.count(".Example requires migration") == 2


def test_views_answer_on_every_database(db_alias, visit):
    view = requires(db_aliases=db_alias)(Async.as_view())

    refused = visit(view)
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.APPLIED)
    answered = visit(view)

    assert (refused.status_code, answered.status_code) == (503, 200)


def test_the_second_answer_costs_no_query(db_alias, visit):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.APPLIED)
    view = requires(db_aliases=[db_alias])(Plain.as_view())
    visit(view)

    with CaptureQueriesContext(connections[db_alias]) as captured:
        visit(view)

    assert len(captured) == 0


def test_the_refusal_is_a_plain_page_that_is_not_cached_and_is_logged(db_alias, visit, caplog):
    caplog.set_level(logging.ERROR, "massmigration")

    response = visit(requires(db_aliases=[db_alias])(function))

    assert response.content.startswith(b"This resource requires data changes which have not yet been made.")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (response.headers["Retry-After"], response.headers["Cache-Control"]) == ("60", "no-store")
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("massmigration")]
    assert message.startswith("Answered 503: ")
    assert message.count(f"manage.py massmigrate testapp 0001_once --database {db_alias}") == 1


@pytest.mark.parametrize("form", ["Plain class", "Async class", "Plain as_view", "Plain method_decorator"])
def test_the_refusal_names_the_class_of_the_view(db_alias, visit, form):
    view = FORMS[form](requires_migration(KEY, [db_alias], skip_in_tests=False))

    with pytest.raises(RequiredMigrationNotApplied, match=r"test_views\.(Example|Plain) requires"):
        visit(view)


def test_a_missing_table_makes_a_view_unavailable(db_alias, visit, monkeypatch):
    monkeypatch.setattr(MigrationRecord._meta, "db_table", "massmigration_absent")

    assert visit(requires(db_aliases=[db_alias])(function)).status_code == 503


def test_an_unknown_migration_is_an_error_of_the_view(visit, db_alias):
    view = view_requires_migration("testapp:0001_typo", [db_alias], skip_in_tests=False)(function)

    with pytest.raises(MigrationNotFound):
        visit(view)


@pytest.mark.parametrize("form", ["function", "async function", "Plain class", "Async class"])
def test_requires_migration_raises_in_a_view(db_alias, visit, form):
    view = FORMS[form](requires_migration(KEY, [db_alias], skip_in_tests=False))

    with pytest.raises(RequiredMigrationNotApplied):
        visit(view)


def test_is_view_answers_503_as_it_did(db_alias, visit):
    view = requires_migration(KEY, [db_alias], True, False)(function)

    assert visit(view).status_code == 503


@pytest.mark.parametrize("form", ["function", "Plain class", "Async class"])
def test_views_are_skipped_in_tests(visit, db_alias, form):
    view = FORMS[form](view_requires_migration(KEY, [db_alias]))

    assert visit(view).content == b"ran"


def test_a_decorated_async_view_is_still_async():
    decorated = [requires()(async_function), requires()(Async.as_view()), requires()(type("V", (Async,), {})).as_view()]

    assert [iscoroutinefunction(view) for view in decorated] == [True, True, True]
