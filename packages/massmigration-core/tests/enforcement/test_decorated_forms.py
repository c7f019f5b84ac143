import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.http import HttpResponse
from django.template import Context, Template
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.views import View
from django.views.generic import TemplateView

from massmigration.enforcement import RequiresMigrationMixin, registry, requirements, requires_migration
from massmigration.exceptions import MigrationNotFound, RequiredMigrationNotApplied
from massmigration.models import MigrationRecord
from massmigration.states import Status

KEY = "testapp:0001_once"
OTHER = "testapp:0002_by_object"


@pytest.fixture(params=["sync", "async"])
def is_async(request):
    return request.param == "async"


@async_to_sync
async def fetched(client):
    return await client.get("/")


@pytest.fixture
def visit(is_async, settings):
    def get(view):
        settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [path("", view.as_view())]})
        return fetched(AsyncClient()) if is_async else Client().get("/")

    return get


def make_record(db_alias, key=KEY):
    MigrationRecord.objects.using(db_alias).create(key=key, status=Status.APPLIED)


def queries(db_alias):
    return CaptureQueriesContext(connections[db_alias])


def view_of(db_alias, *, keys=(KEY,), is_view_async=False, **attributes):
    def get(self, request):
        return HttpResponse("42")

    async def aget(self, request):
        return HttpResponse("42")

    own = {"required_migrations": keys, "required_on": [db_alias], "skip_in_tests": False, **attributes}
    return type("Example", (RequiresMigrationMixin, View), {**own, "get": aget if is_view_async else get})


@pytest.mark.parametrize("is_view_async", [False, True])
def test_a_view_with_the_mixin_answers_503_until_it_is_applied(db_alias, visit, is_view_async):
    view = view_of(db_alias, is_view_async=is_view_async)

    before = visit(view)
    make_record(db_alias)
    after = visit(view)
    with queries(db_alias) as again:
        visit(view)

    assert (before.status_code, before["Retry-After"]) == (503, "60")
    assert (after.status_code, after.content, len(again)) == (200, b"42", 0)


def test_a_view_with_the_mixin_can_require_several(db_alias, visit):
    view = view_of(db_alias, keys=[KEY, ("testapp", "0002_by_object")])
    make_record(db_alias)

    assert visit(view).status_code == 503
    make_record(db_alias, OTHER)
    assert visit(view).status_code == 200


def test_a_view_with_the_mixin_is_let_through_in_tests(db_alias, visit, monkeypatch):
    view = view_of(db_alias, skip_in_tests=True)

    assert visit(view).status_code == 200
    monkeypatch.setattr(requirements, "is_running_tests", lambda: False)
    assert visit(view).status_code == 503


def test_the_mixin_works_with_djangos_own_views(db_alias, visit):
    class Page(RequiresMigrationMixin, TemplateView):
        required_migrations = [KEY]
        required_on = [db_alias]
        skip_in_tests = False

    assert visit(Page).status_code == 503


def test_a_wrong_mixin_is_refused_when_it_is_written():
    with pytest.raises(MigrationNotFound):
        view_of("default", keys=["once"])
    with pytest.raises(TypeError, match="must be a list"):
        view_of("default", keys=KEY)


def test_a_decorated_class_stays_a_class(db_alias):
    @requires_migration(KEY, db_alias, skip_in_tests=False)
    class Example:
        answer = 42

    class Special(Example):
        pass

    with pytest.raises(RequiredMigrationNotApplied, match=r"Example requires"):
        Example()
    with pytest.raises(RequiredMigrationNotApplied, match=r"Special requires"):
        Special()
    make_record(db_alias)
    assert isinstance(Special(), Example)
    assert Special().answer == 42


def render(source, is_async=False):
    template = Template("{% load massmigration %}" + source)
    call = async_to_sync(sync_to_async(template.render)) if is_async else template.render
    return call(Context())


def strict(db_alias):
    tag = f'{{% is_migrated "{KEY}" db_aliases="{db_alias}" skip_in_tests=False as ready %}}'
    return f"{tag}{{% if ready %}}new{{% else %}}old{{% endif %}}"


def test_a_template_asks(db_alias, is_async):
    before = render(strict(db_alias), is_async)
    make_record(db_alias)
    after = render(strict(db_alias), is_async)
    with queries(db_alias) as again:
        render(strict(db_alias), is_async)

    assert (before, after, len(again)) == ("old", "new", 0)


def test_a_condition_in_a_template_is_true_in_tests_and_asks_elsewhere(db_alias, monkeypatch):
    source = f'{{% if "{KEY}"|migrated:"{db_alias}" %}}new{{% else %}}old{{% endif %}}'

    assert render(source) == "new"
    monkeypatch.setattr(requirements, "is_running_tests", lambda: False)
    assert render(source) == "old"
    make_record(db_alias)
    assert render(source) == "new"


def test_a_template_with_an_unknown_migration_is_refused_in_tests_too(db_alias):
    with pytest.raises(MigrationNotFound):
        render('{% if "testapp:0001_typo"|migrated %}{% endif %}')


def test_on_several_databases_all_must_have_it(server_alias):
    both = f"default {server_alias}"
    make_record("default")

    assert render(strict("default")) == "new"
    assert render(strict(both)) == "old"
    make_record(server_alias)
    assert render(strict(both)) == "new"


def test_what_requires_a_migration_is_known_by_name():
    requires_migration(KEY)(module_code)
    requires_migration(KEY)(lambda: None)

    assert [(need.key, need.by) for need in registry.from_code()] == [(KEY, f"{__name__}.module_code")]


def module_code():
    """Do nothing. It is defined at the top level of a module, so that its dotted name leads to it."""
