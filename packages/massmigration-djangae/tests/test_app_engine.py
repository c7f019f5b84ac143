"""App Engine targets, the settings of djangae's projects, and the parameters of django-mass-migration."""

import datetime as dt

import pytest
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone
from google.cloud import tasks_v2

from massmigration import api
from massmigration.backends import handler
from massmigration.conf import settings as conf
from massmigration.jobs import Job, JobKind
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.paging.keyset import Keyset
from massmigration_djangae import CloudTasksBackend, DjangaeBackend, client
from testsupport import oracle
from testsupport.cloudtasks.fake import FakeCloudTasks
from testsupport.inline_migrations import register
from testsupport.testapp.models import Item, Token

OLD_PATH = "massmigration.backends.djangae.DjangaeBackend"
QUEUE = "projects/mine/locations/europe-west2/queues/old-queue"
KEY = "testapp:9000_adhoc"
only_default = pytest.mark.parametrize("db_alias", ["default"], indirect=True)
PLAN = Job(kind=JobKind.PLAN, key="testapp:0001_once", db_alias="default", attempt_id="0" * 32).dumps()
SHARD = Job(kind=JobKind.SHARD, key="testapp:0001_once", db_alias="default", attempt_id="0" * 32).dumps()


@pytest.fixture(autouse=True)
def cloud(settings, monkeypatch):
    """The fake, with the settings of a project that ran django-mass-migration 0.3.x."""
    fake = FakeCloudTasks(QUEUE, f"{QUEUE}-2")
    settings.ROOT_URLCONF = "testsupport.cloudtasks.urls"
    settings.MASSMIGRATION_TASK_QUEUE = "old-queue"
    settings.CLOUD_TASKS_PROJECT_ID = "mine"
    settings.CLOUD_TASKS_LOCATION = "europe-west2"
    monkeypatch.setattr(client, "get", lambda emulator: fake)
    for name in ("GAE_ENV", "GAE_VERSION", "GOOGLE_CLOUD_PROJECT", "TASKS_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return fake


class Simple(SimpleMigration):
    def operation(self, db_alias):
        pass


class Mapper(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        queryset.update(note="done")


def backend_with(monkeypatch, migration_class=Simple, **params):
    monkeypatch.setattr(migration_class, "backend_params", params, raising=False)
    return handler.backend_of(handler.store.by_key[register(monkeypatch, migration_class)])


def sent(cloud, backend, payload=PLAN):
    backend.send(payload, None)
    return cloud.waiting.pop()


def test_the_old_settings_make_the_backend():
    backend = handler.get_backend()

    assert type(backend) is DjangaeBackend
    assert handler.get_backend(OLD_PATH).given == backend.given
    assert backend.given.queue_path == QUEUE


def test_a_task_goes_to_the_page_on_app_engine(cloud, monkeypatch):
    monkeypatch.setenv("GAE_VERSION", "v7")

    request = sent(cloud, handler.get_backend()).app_engine_http_request

    assert (request.relative_uri, request.http_method) == ("/massmigration/run/", tasks_v2.HttpMethod.POST)
    assert request.body.decode() == PLAN
    assert (request.app_engine_routing.service, request.app_engine_routing.version) == ("", "v7")


@pytest.mark.parametrize("params", ["defer_kwargs", "defer_iteration_with_finalize_kwargs"])
def test_where_to_is_honoured(cloud, monkeypatch, params):
    backend = backend_with(monkeypatch, **{params: {"_queue": "old-queue-2", "_service": "batch", "_version": "v1"}})

    task = sent(cloud, backend)

    assert task.name.startswith(f"{QUEUE}-2/tasks/")
    routing = task.app_engine_http_request.app_engine_routing
    assert (routing.service, routing.version) == ("batch", "v1")


def test_the_default_version_is_whichever_serves(cloud, monkeypatch):
    monkeypatch.setenv("GAE_VERSION", "v7")
    backend = backend_with(monkeypatch, defer_kwargs={"_version": "default"})

    assert sent(cloud, backend).app_engine_http_request.app_engine_routing.version == ""


@pytest.mark.parametrize(
    "when",
    [
        lambda: {"_countdown": 3600},
        lambda: {"_eta": timezone.now() + dt.timedelta(hours=1)},
        lambda: {"_eta": timezone.make_naive(timezone.now() + dt.timedelta(hours=1))},
    ],
    ids=["countdown", "eta", "naive eta"],
)
@pytest.mark.parametrize("migration_class", [Simple, Mapper])
@only_default
def test_the_launchs_own_job_waits_and_no_other(cloud, db_alias, monkeypatch, when, migration_class):
    backend = backend_with(monkeypatch, migration_class, defer_kwargs=when())

    api.launch(KEY, db_alias)
    first = cloud.waiting.pop()
    MigrationRecord.objects.using(db_alias).update(next_send_at=F("next_send_at") - conf.LEASE)
    recovered = api.recover(db_alias)
    api.pause(KEY, db_alias)
    api.resume(KEY, db_alias)
    resumed = cloud.waiting.pop()
    api.cancel(KEY, db_alias)
    api.retry(KEY, db_alias)
    retried = cloud.waiting.pop()

    wait = first.schedule_time - dt.datetime.now(dt.timezone.utc)
    assert dt.timedelta(minutes=59) < wait <= dt.timedelta(hours=1)
    assert recovered == 0
    assert not any(task.schedule_time for task in (resumed, retried, sent(cloud, backend), sent(cloud, backend, SHARD)))


@only_default
def test_an_eta_in_the_past_is_now(cloud, db_alias, monkeypatch):
    backend_with(monkeypatch, defer_kwargs={"_eta": timezone.now() - dt.timedelta(hours=1)})

    api.launch(KEY, db_alias)

    assert not cloud.waiting.pop().schedule_time


def overlapping(queryset, count):
    """Return ranges whose last one overlaps the one before, as djangae's own function does."""
    pks = sorted(queryset.values_list("pk", flat=True))
    return [(None, pks[3]), (pks[3], pks[6]), (pks[5], None)]


def plan_of(queryset, backend, count=8):
    return backend.split(queryset, Keyset.of(queryset.model), count)


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_projects_own_ranges_are_cut_without_overlaps(db_alias, monkeypatch, place):
    oracle.make_items(db_alias, 10)
    pks = oracle.rows(db_alias)
    getter = {"key_ranges_getter": overlapping}
    params = getter if place == "beside" else {"defer_iteration_with_finalize_kwargs": getter}
    backend = backend_with(monkeypatch, Mapper, **params)

    plan = plan_of(Item.objects.using(db_alias), backend)

    assert [(each.lower, each.upper) for each in plan.ranges] == [
        (None, [pks[2]]),
        ([pks[2]], [pks[4]]),
        ([pks[4]], [pks[9]]),
    ]
    assert plan.total == 10


def test_ranges_of_nothing_are_none(db_alias, monkeypatch):
    backend = backend_with(monkeypatch, Mapper, key_ranges_getter=lambda queryset, count: [(None, None)])

    assert plan_of(Item.objects.using(db_alias), backend).ranges == ()


def test_the_number_of_shards_is_honoured(db_alias, monkeypatch):
    monkeypatch.setattr("massmigration.paging.sharding.MIN_SHARD_SIZE", 1)
    oracle.make_items(db_alias, 10)
    backend = backend_with(monkeypatch, Mapper, defer_iteration_with_finalize_kwargs={"_shards": 2})

    assert len(plan_of(Item.objects.using(db_alias), backend).ranges) == 2


def test_what_has_no_meaning_warns_with_what_to_use_instead(monkeypatch):
    backend = backend_with(monkeypatch, defer_kwargs={"_small_task": True, "_queue": "q", "colour": "red"})

    found = {message.id: (message.msg, message.hint) for message in backend.check() if message.id.endswith("W002")}
    texts = [message.msg for message in backend.check()]

    assert "massmigration_djangae.W002" in found
    assert any("'_small_task'" in text for text in texts)
    assert any("'colour'" in text for text in texts)
    assert not any("'_queue'" in text for text in texts)


@pytest.mark.parametrize("name", sorted({"_name", "_using", "_transactional", "_retry_options", "_url", "order_field"}))
def test_every_old_name_has_a_hint(monkeypatch, name):
    backend = backend_with(monkeypatch, defer_kwargs={name: "x"})

    (message,) = [each for each in backend.check() if each.id == "massmigration_djangae.W002"]

    assert "django-mass-migration" not in message.hint
    assert message.hint != "Remove it. Operations are given the object and the database alone."


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_an_old_project_launches_and_its_record_says_who_carries_it(cloud, db_alias, monkeypatch):
    backend_with(monkeypatch, Mapper, defer_iteration_with_finalize_kwargs={"_shards": 3, "_delete_marker": True})
    oracle.make_items(db_alias, 3)

    api.launch("testapp:9000_adhoc", db_alias, actor="code:test")

    assert len(cloud.waiting) == 1
    assert api.status("testapp:9000_adhoc", db_alias).status == "queued"
    assert not ShardRecord.objects.using(db_alias).exists()


def ids(backend):
    return sorted(message.id.removeprefix("massmigration_djangae.") for message in backend.check())


GOOD = {
    "project": "example",
    "location": "europe-west1",
    "url": "https://example.com/massmigration/run/",
    "service_account": "a@example.com",
}
DEVELOPMENT = "massmigration_djangae.auth.development"

CHECKS = {
    "good": ({}, []),
    "no project": ({"project": ""}, ["E001"]),
    "no location": ({"location": ""}, ["E001"]),
    "no url": ({"url": ""}, ["E001"]),
    "no account": ({"service_account": ""}, ["E001"]),
    "development": ({"verifier": DEVELOPMENT}, ["E002"]),
    "short deadline": ({"deadline": dt.timedelta(seconds=1)}, ["E003"]),
    "long deadline": ({"deadline": dt.timedelta(hours=1)}, ["E003"]),
    "plain": ({"url": "http://example.com/massmigration/run/"}, ["E004"]),
    "plain to an emulator": ({"url": "http://localhost/massmigration/run/", "emulator": "localhost:1"}, []),
    "unknown option": ({"locations": "x"}, ["W001"]),
    "not served": ({"url": "https://example.com/elsewhere/"}, ["W003"]),
}


@pytest.mark.parametrize(("options", "expected"), CHECKS.values(), ids=CHECKS.keys())
def test_what_is_wrong_with_http_targets_is_checked(options, expected):
    assert ids(CloudTasksBackend(**GOOD | options)) == expected


def test_the_development_verifier_is_for_debugging(settings):
    settings.DEBUG = True

    assert ids(CloudTasksBackend(**GOOD | {"verifier": DEVELOPMENT})) == []


def test_redirects_to_https_are_checked(settings):
    settings.SECURE_SSL_REDIRECT = True

    assert ids(handler.get_backend()) == ["W004"]
    settings.SECURE_REDIRECT_EXEMPT = [r"^massmigration/run/$"]
    assert ids(handler.get_backend()) == []


def test_a_project_without_the_page_is_told_what_to_add(settings):
    settings.ROOT_URLCONF = "testsupport.urls"

    (message,) = handler.get_backend().check()

    assert message.id == "massmigration_djangae.E005"
    assert 'include("massmigration_djangae.urls")' in message.hint


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [({}, {}, ["W005"]), ({"verifier": DEVELOPMENT}, {}, []), ({}, {"GAE_ENV": "standard"}, [])],
    ids=["nobody gets in", "development", "App Engine"],
)
def test_a_machine_where_nobody_gets_in_is_told_what_to_set(settings, monkeypatch, options, environ, expected):
    settings.DEBUG = True
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert ids(DjangaeBackend(**options)) == expected


def test_the_checks_are_a_part_of_djangos(settings, capsys):
    settings.CLOUD_TASKS_LOCATION = ""

    with pytest.raises(BaseException, match="needs the option 'location'"):
        call_command("check", "--tag", "massmigration")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, "127.0.0.1:9022"), ({"TASKS_EMULATOR_HOST": "h:1"}, "h:1"), ({"GAE_ENV": "standard"}, "")],
    ids=["off App Engine", "given", "on App Engine"],
)
def test_off_app_engine_there_is_an_emulator(monkeypatch, environ, expected):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert DjangaeBackend().given.emulator == expected


def test_shards_of_uuids_are_cut_as_ever(db_alias, monkeypatch):
    Token.objects.using(db_alias).bulk_create(Token() for _ in range(5))
    backend = backend_with(monkeypatch, Mapper)

    assert plan_of(Token.objects.using(db_alias), backend).total == 5
