"""The permissions of each kind of user, for each URL and each action."""

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from massmigration import urls
from massmigration.migrations import SimpleMigration
from massmigration.models import FailedObject, MigrationRecord, Switch
from massmigration.states import Status
from massmigration.verbs import VERBS
from testsupport.inline_migrations import register
from testsupport.pages import ADDRESSES

KEY = "testapp:9000_adhoc"
NOW = "2026-01-02T03:04:05Z"

USERS = {
    "anonymous": None,
    "staff": [],
    "runner who may not view": ["run"],
    "viewer": ["view"],
    "runner": ["view", "run"],
    "controller": ["view", "control"],
    "forgetter": ["view", "forget"],
    "superuser": ["view", "run", "control", "forget"],
}
GETS = {
    "manage": "view",
    "detail": "view",
    "status": "view",
    "failures": "view",
    "history": "view",
    "pace": "view",
    "everything": "control",
    "run": "run",
    "delete": "forget",
}
STATUSES = {"pause": "running", "resume": "paused", "proceed": "waiting", "cancel": "running", "recover": "running"}
POSTS = {
    "pause": "control",
    "resume": "control",
    "proceed": "run",
    "cancel": "control",
    "recover": "control",
    "retry": "run",
    "restart": "run",
    "fake": "run",
    "forget": "forget",
}
UNUSED = {(view, method) for view in [*GETS, "action"] for method in ("post", "put", "patch", "delete")} - {
    (view, "post") for view in ("run", "failures", "delete", "action", "pace", "everything")
}


class Once(SimpleMigration):
    def get_stages(self):
        return [*super().get_stages(), self.wait("Is it good?")]

    def operation(self, db_alias):
        pass


pytestmark = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


@pytest.fixture(autouse=True)
def project(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Once)


def client_of(name):
    client = Client(enforce_csrf_checks=False)
    if name == "anonymous":
        return client
    if name == "superuser":
        client.force_login(User.objects.create_superuser("ann"))
        return client
    user = User.objects.create_user("ann", is_staff=name == "staff")
    codenames = [f"{each}_migrationrecord" for each in USERS[name]]
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return client


def is_allowed(name, permission):
    return {"view", permission} <= set(USERS[name] or ())


def refused(name, is_json=False):
    return 302 if name == "anonymous" and not is_json else 403


def make(status, **fields):
    stage = 1 if status == Status.WAITING else 0
    return MigrationRecord.objects.create(key=KEY, status=status, is_planned=True, stage=stage, **fields)


def seen(record):
    stage = f" {record.stage}" if record.status == Status.WAITING else ""
    return f"{record.attempt_id} {record.status}{stage}"


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("view", GETS)
def test_pages_are_shown_to_those_who_may_see_them(db_alias, name, view):
    make(Status.PAUSED)
    arguments = {"manage": [], "everything": ["pause-all"]}.get(view, [KEY, db_alias])

    response = client_of(name).get(reverse(f"massmigration_{view}", args=arguments))

    assert response.status_code == (200 if is_allowed(name, GETS[view]) else refused(name, view == "status"))
    if response.status_code == 302:
        assert response.url.startswith("/admin/login/?next=")


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("verb", POSTS)
def test_verbs_are_obeyed_from_those_who_may_give_them(db_alias, name, verb):
    record = make(STATUSES.get(verb, "failed"))
    address = reverse("massmigration_action", args=[verb, KEY, db_alias])
    form = {"typed": "9000_adhoc", "seen": seen(record)}

    response = client_of(name).post(address, form)

    now = MigrationRecord.objects.filter(key=KEY).first()
    has_changed = now is None or (now.status, now.attempt_id) != (record.status, record.attempt_id)
    assert has_changed == (is_allowed(name, POSTS[verb]) and verb != "recover")
    assert response.status_code == (302 if is_allowed(name, POSTS[verb]) else refused(name))


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("form", [{}, {"dry_run": "1", "size": "1"}], ids=["start", "dry run"])
def test_migrations_are_started_and_tried_by_those_who_may_run_them(db_alias, name, form):
    response = client_of(name).post(reverse("massmigration_run", args=[KEY, db_alias]), form)

    may = is_allowed(name, "run")
    assert MigrationRecord.objects.exists() == (may and not form)
    assert response.status_code == ((200 if form else 302) if may else refused(name))


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("verb", POSTS)
def test_a_page_that_asks_is_shown_to_those_who_may_give_its_verb(db_alias, name, verb):
    record = make(STATUSES.get(verb, "failed"))

    response = client_of(name).get(reverse("massmigration_action", args=[verb, KEY, db_alias]))

    shown = 302 if verb == "recover" else 200
    assert response.status_code == (shown if is_allowed(name, POSTS[verb]) else refused(name))
    assert (response.status_code == 302 and "login" in response.url) == (name == "anonymous")
    now = MigrationRecord.objects.get()
    assert (now.status, now.attempt_id) == (record.status, record.attempt_id)


@pytest.mark.parametrize("name", USERS)
def test_a_record_is_forgotten_by_those_who_may_forget(db_alias, name):
    record = make(Status.FAILED)
    form = {"typed": "9000_adhoc", "seen": f"{record.attempt_id} failed"}

    response = client_of(name).post(reverse("massmigration_delete", args=[KEY, db_alias]), form)

    assert MigrationRecord.objects.exists() == (not is_allowed(name, "forget"))
    assert response.status_code == (302 if is_allowed(name, "forget") else refused(name))


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize(("view", "method"), sorted(UNUSED))
def test_no_page_takes_a_method_that_it_has_no_use_for(db_alias, name, view, method):
    make(Status.RUNNING)
    others = {"manage": [], "everything": ["pause-all"], "action": ["pause", KEY, db_alias]}
    arguments = others.get(view, [KEY, db_alias])

    response = getattr(client_of(name), method)(reverse(f"massmigration_{view}", args=arguments))

    assert response.status_code == 405
    assert MigrationRecord.objects.get().status == Status.RUNNING


def test_every_address_has_a_row_in_these_tables(db_alias):
    names = {pattern.name for pattern in urls.urlpatterns if pattern.name}

    assert names == {f"massmigration_{view}" for view in [*GETS, "action"]}
    assert {view for view, _ in ADDRESSES.values()} == {*GETS, "action"} - {"status"}
    assert {*POSTS, "launch"} == {*VERBS, "recover"}


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("do", ["retry", "resolve"])
def test_failed_objects_are_mended_by_those_who_may_run(db_alias, name, do):
    record = make(Status.FAILED)
    FailedObject.objects.create(
        record=record,
        attempt_id=record.attempt_id,
        stage=0,
        shard=0,
        object_pk=[1],
        is_behind_cursor=True,
        failed_at=NOW,
    )

    client_of(name).post(reverse("massmigration_failures", args=[KEY, db_alias]), {"do": do, "reason": "none"})

    has_changed = (
        MigrationRecord.objects.get().status != Status.FAILED or FailedObject.objects.get().resolved_at is not None
    )
    assert has_changed == is_allowed(name, "run")


@pytest.mark.parametrize("name", USERS)
def test_the_pace_is_changed_by_those_who_may_control(db_alias, name):
    make(Status.RUNNING)
    form = {"max_workers": "2", "throttles": "on", "confirmed": "yes", "seen": "{}"}

    response = client_of(name).post(reverse("massmigration_pace", args=[KEY, db_alias]), form)

    may = is_allowed(name, "control")
    assert MigrationRecord.objects.get().pace == ({"max_workers": 2} if may else {})
    assert response.status_code == (302 if may else refused(name))


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("name", USERS)
def test_everything_is_paused_by_those_who_may_control(db_alias, name):
    response = client_of(name).post(reverse("massmigration_everything", args=["pause-all"]))

    assert Switch.objects.filter(is_on=True).exists() == is_allowed(name, "control")
    assert response.status_code == (302 if is_allowed(name, "control") else refused(name))


@pytest.mark.parametrize("address", [("pace", KEY, "default"), ("everything", "pause-all")])
def test_a_pace_or_a_pause_of_everything_without_a_token_changes_nothing(db_alias, address):
    make(Status.RUNNING)
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ann"))
    form = {"max_workers": "2", "throttles": "on", "confirmed": "yes", "seen": "{}"}

    response = client.post(reverse(f"massmigration_{address[0]}", args=address[1:]), form)

    assert response.status_code == 403
    assert (MigrationRecord.objects.get().pace, Switch.objects.exists()) == ({}, False)


@pytest.mark.parametrize(
    "address", [*((view, KEY) for view in ("run", "failures", "delete")), *(("action", verb, KEY) for verb in POSTS)]
)
def test_a_post_without_its_token_changes_nothing(db_alias, address):
    record = make(STATUSES.get(address[1], "failed"))
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ann"))
    form = {"typed": "9000_adhoc", "seen": f"{record.attempt_id} {record.status}", "do": "retry"}

    response = client.post(reverse(f"massmigration_{address[0]}", args=[*address[1:], db_alias]), form)

    assert response.status_code == 403
    now = MigrationRecord.objects.get()
    assert (now.status, now.attempt_id) == (record.status, record.attempt_id)


def test_a_project_without_the_middleware_is_protected_all_the_same(db_alias, settings):
    make(Status.RUNNING)
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "csrf" not in name]
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ann"))

    response = client.post(reverse("massmigration_action", args=["pause", KEY, db_alias]))

    assert response.status_code == 403
    assert MigrationRecord.objects.get().status == Status.RUNNING


@pytest.mark.parametrize("name", ["viewer", "controller", "superuser"])
def test_buttons_are_offered_to_those_who_may_press_them(db_alias, name):
    make(Status.RUNNING)

    page = client_of(name).get(reverse("massmigration_detail", args=[KEY, db_alias])).content.decode()

    offered = {verb for verb in POSTS if f'data-mm-verb="{verb}"' in page}
    assert offered == {verb for verb, permission in POSTS.items() if is_allowed(name, permission)}
