"""Mistakes of operators, and wrong URLs, files and databases."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import connections
from django.test import Client
from django.urls import reverse

from massmigration import urls
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.models import Event, FailedObject, MigrationRecord
from massmigration.recorder.attempts import retry
from massmigration.states import Status
from massmigration.views.base import is_storable
from testsupport.factories import Slugs, text_of
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite
from testsupport.testapp.models import Word

KEY = "testapp:9000_adhoc"
NOW = "2026-01-02T03:04:05Z"
NASTY = [
    "shop:<script>alert(1)</script>",
    "shop:../../admin",
    "..",
    "shop:a/b?c#d",
    'shop:"quoted" & {{ 1 }}',
    "shop:one\ntwo",
    "läden:0001_größe~2F",
]
MANY = """
    WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 99999)
    INSERT INTO massmigration_failedobject (record_id, attempt_id, stage, shard, object_pk, is_behind_cursor,
        exception_class, message, traceback, fingerprint, failed_at, resolution, is_excluded)
    SELECT record_id, attempt_id, 0, 0, '[' || n || ']', 1, exception_class, 'bad ' || n, '',
        printf('%064d', n % 50), failed_at, '', 0
    FROM numbers, (SELECT * FROM massmigration_failedobject)
"""


class OfWords(Slugs):
    def get_queryset(self, db_alias):
        return Word.objects.using(db_alias)


class Elsewhere(Slugs):
    allowed_db_aliases = ["default"]


class Raising(Slugs):
    def get_queryset(self, db_alias):
        raise RuntimeError("no such thing")


EVIL = {
    "NUL": "a%00b",
    "half of a surrogate pair": "%ED%A0%80",
    "not UTF-8": "%FF%FE",
    "5000 digits": "9" * 5000,
    "4000 digits": "9" * 4000,
    "4000 digits below zero": "-" + "9" * 4000,
    "20 digits": "9" * 20,
    "19 digits": "9" * 19,
    "below zero": "-1",
    "other digits": "%D9%A3%C2%B2",
    "no number": "NaN",
    "many characters": "x" * 100_000,
    "lines": "%0Aone%0D%0Atwo%1B%5B2J",
    "quotes": "%27%22%3B--%25s%7B%7B1%7D%7D%3Cb%3E",
    "nothing": "",
}
QUERIES = {
    "manage": ["page", "status", "app", "q"],
    "detail": ["page"],
    "status": ["at", "done"],
    "failures": ["page", "group"],
    "history": ["page"],
    "run": ["dry_run", "size"],
    "delete": ["typed"],
    "pace": ["max_workers"],
}
VIEWS = [view for view in QUERIES if view != "manage"]
"""The pages of one migration."""

FORMS = [
    ("run", {"dry_run": "1"}, ["size"]),
    ("run", {}, ["typed", "seen"]),
    ("failures", {"do": "retry"}, ["ids", "group", "do"]),
    ("failures", {"do": "resolve", "reason": "y"}, ["ids", "group", "reason", "do"]),
    ("delete", {}, ["typed", "seen"]),
    ("pace", {"throttles": "on"}, ["max_workers", "window", "batch_duration"]),
    ("pace", {"throttles": "on", "max_workers": "2", "confirmed": "yes"}, ["seen", "throttles"]),
]
UNUSABLE = {"NUL"}
"""Of them, what is no text that a database stores."""

pytestmark = pytest.mark.usefixtures("slugs")


def address(view, *arguments):
    return reverse(f"massmigration_{view}", args=arguments)


def said(response):
    return [message.message for message in get_messages(response.wsgi_request)]


def fail(db_alias, count=1, status=Status.FAILED, **fields):
    record = MigrationRecord.objects.using(db_alias).create(key=KEY, status=status, is_planned=True)
    values = {
        "is_behind_cursor": True,
        "object_pk": [1],
        "fingerprint": "f" * 64,
        "exception_class": "builtins.ValueError",
    }
    FailedObject.objects.using(db_alias).bulk_create(
        FailedObject(
            record=record,
            attempt_id=record.attempt_id,
            stage=0,
            shard=0,
            failed_at=NOW,
            **{**values, **fields},
        )
        for _ in range(count)
    )
    return record


def test_every_address_is_in_these_tables():
    names = {pattern.name for pattern in urls.urlpatterns if pattern.name}

    assert names == {f"massmigration_{view}" for view in [*QUERIES, "action", "everything"]}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("where", [("no:such_thing", "default"), (KEY, "nowhere")], ids=["key", "alias"])
@only_sqlite
def test_what_does_not_exist_is_not_found(client, db_alias, view, where):
    assert client.get(address(view, *where)).status_code == 404


@only_sqlite
def test_a_verb_that_does_not_exist_is_not_found(client, db_alias):
    assert client.post(address("action", "explode", KEY, db_alias)).status_code == 404


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_an_alias_that_is_not_allowed_is_refused_in_the_words_of_the_api(client, db_alias, monkeypatch):
    register(monkeypatch, Elsewhere)

    page = text_of(client.get(address("run", KEY, db_alias)))
    response = client.post(address("run", KEY, db_alias))

    assert f"is not allowed on database &#x27;{db_alias}&#x27;; allowed: &#x27;default&#x27;." in page
    assert f">Launch 9000_adhoc on {db_alias}<" not in page
    assert f"is not allowed on database {db_alias!r}" in said(response)[0]
    assert not MigrationRecord.objects.using(db_alias).exists()


def test_a_double_click_on_run_gives_one_run_and_one_clear_refusal(client, db_alias):
    gate = threading.Barrier(2)

    def click():
        mine = Client()
        mine.force_login(User.objects.get())  # in a session of its own, because messages are in the session
        gate.wait()
        try:
            return said(mine.post(address("run", KEY, db_alias)))[0]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(each.result() for each in [pool.submit(click), pool.submit(click)])

    assert f"is already queued on database {db_alias!r}" in answers[0]
    assert answers[1] == f"{KEY} was launched on {db_alias}."
    assert Event.objects.using(db_alias).filter(verb="launch").count() == 1


def test_a_verb_whose_time_has_passed_is_refused_and_said(client, db_alias):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.APPLIED)

    response = client.post(address("action", "pause", KEY, db_alias), follow=True)

    assert "its status is applied; pause requires the status queued or running" in text_of(response)


def test_a_grave_verb_is_not_given_to_another_attempt_than_was_seen(client, db_alias):
    record = fail(db_alias)
    retry(db_alias, KEY, actor="bob")
    MigrationRecord.objects.using(db_alias).update(status=Status.FAILED)

    form = {"typed": "9000_adhoc", "seen": f"{record.attempt_id} failed"}
    response = client.post(address("action", "forget", KEY, db_alias), form)

    assert "the migration has changed since you opened the page" in text_of(response)
    assert MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("typed", ["", "9000", "testapp", "9000_ADHOC"])
@only_sqlite
def test_a_grave_verb_needs_the_name_typed(client, db_alias, typed):
    record = fail(db_alias)

    form = {"typed": typed, "seen": f"{record.attempt_id} failed"}
    response = client.post(address("action", "forget", KEY, db_alias), form)

    assert "Nothing was changed: type 9000_adhoc to confirm" in text_of(response)
    assert MigrationRecord.objects.exists()


def test_a_database_without_the_tables_says_so_and_the_others_are_shown(client, db_alias, other_alias):
    fail(db_alias)

    with without_tables(other_alias):
        page = text_of(client.get(address("manage")))

    assert f"manage.py migrate --database {other_alias}" in page
    assert page.count("manage.py migrate --database") == 1
    assert "<span>Failed</span>" in page.partition('class="mm-matrix')[2]


@pytest.mark.parametrize("db_alias", ["postgresql", "mariadb", "mysql"], indirect=True)
def test_the_pages_of_a_database_without_the_tables_say_what_to_run(client, db_alias):
    with without_tables(db_alias):
        responses = {view: client.get(address(view, KEY, db_alias)) for view in VIEWS}
        started = client.post(address("run", KEY, db_alias))

    assert {view: response.status_code for view, response in responses.items()} == dict.fromkeys(VIEWS, 503)
    assert f"manage.py migrate --database {db_alias}" in text_of(responses["detail"])
    assert responses["status"].json()["error"].endswith(f"manage.py migrate --database {db_alias}")
    assert started.status_code == 503


@contextlib.contextmanager
def without_tables(db_alias):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("ALTER TABLE massmigration_migrationrecord RENAME TO massmigration_elsewhere")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE massmigration_elsewhere RENAME TO massmigration_migrationrecord")


@only_sqlite
def test_a_file_that_cannot_be_imported_shows_its_error_and_nothing_else_fails(client, db_alias, monkeypatch):
    key = "testapp:9999_broken"
    monkeypatch.setitem(store.errors, key, BadMigrationFile("testapp/9999_broken.py cannot be imported: <oops>"))

    pages = [client.get(address("manage")), *(client.get(address(view, key, db_alias)) for view in ("detail", "run"))]

    assert [page.status_code for page in pages] == [200, 200, 200]
    assert ["cannot be imported: &lt;oops&gt;" in text_of(page) for page in pages] == [True, True, True]
    assert KEY.partition(":")[2] in text_of(pages[0])


@only_sqlite
def test_an_object_without_an_admin_page_has_no_link(client, db_alias, monkeypatch):
    register(monkeypatch, OfWords)
    fail(db_alias, object_pk=["word/with?marks"])

    page = text_of(client.get(address("failures", KEY, db_alias)))

    assert "word/with?marks" in page
    assert "/admin/testapp/" not in page


@only_sqlite
def test_a_traceback_with_html_is_text(client, db_alias):
    fail(db_alias, message="<b>bold</b>", traceback="<script>alert(1)</script>")

    page = text_of(client.get(address("failures", KEY, db_alias)))

    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize("key", NASTY)
@only_sqlite
def test_a_name_that_would_break_pages_and_addresses_breaks_none(client, db_alias, key):
    record = MigrationRecord.objects.create(key=key, status=Status.FAILED, last_error=key, launched_by=key)

    responses = [client.get(address("manage")), *(client.get(address(view, key, db_alias)) for view in VIEWS)]
    form = {"typed": key.strip(), "seen": f"{record.attempt_id} failed"}
    client.post(address("action", "forget", key, db_alias), form)

    assert [response.status_code for response in responses] == [200] * (1 + len(VIEWS))
    assert not any(b"<script>alert" in response.content for response in responses)
    assert not MigrationRecord.objects.exists()


@only_sqlite
def test_five_hundred_migrations_are_listed_by_the_page(client, db_alias):
    MigrationRecord.objects.bulk_create(
        MigrationRecord(key=f"shop:{number:04}_one", status=Status.APPLIED) for number in range(500)
    )

    page = text_of(client.get(address("manage")))
    last = text_of(client.get(address("manage") + "?page=6&status=applied&app=shop"))

    assert page.count('class="mm-name"') == 100
    assert "Page 1 of 6" in page
    assert "shop:0499_one" in last


@only_sqlite
def test_a_hundred_thousand_failures_are_paged(client, db_alias):
    fail(db_alias)
    with connections[db_alias].cursor() as cursor:
        cursor.execute(MANY)

    causes = client.get(address("failures", KEY, db_alias))
    group = client.get(address("failures", KEY, db_alias) + f"?group={7:064}&page=40")
    client.post(address("failures", KEY, db_alias), {"do": "resolve", "group": f"{7:064}", "reason": "gone"})

    assert "100001 failed objects" in text_of(causes).replace(",", "")
    assert "Page 1 of 3" in text_of(causes)
    assert len(causes.content) < 400_000
    assert "Page 40 of 40" in text_of(group)
    assert FailedObject.objects.filter(resolution="gone").count() == 2000


@pytest.mark.parametrize("size", ["0", "-1", "101", "many", "", "9" * 100])
@only_sqlite
def test_a_dry_run_of_an_impossible_size_is_refused(client, db_alias, size):
    page = text_of(client.post(address("run", KEY, db_alias), {"dry_run": "1", "size": size}))

    assert "A dry run takes 1 to 100 objects. You entered" in page


@only_sqlite
def test_what_get_queryset_raises_is_a_warning_of_the_run_page(client, db_alias, monkeypatch):
    register(monkeypatch, Raising)

    page = text_of(client.get(address("run", KEY, db_alias)))
    tried = text_of(client.post(address("run", KEY, db_alias), {"dry_run": "1", "size": "3"}))

    assert "get_queryset() raised RuntimeError: no such thing. A run would fail with the same error." in page
    assert "raised RuntimeError: no such thing" in tried


@pytest.mark.parametrize(
    "query", ["?page=nonsense", "?page=999", "?status=nonsense", "?group=nonsense", "?at=x&done=1"]
)
@only_sqlite
def test_nonsense_in_the_query_string_is_borne(client, db_alias, query):
    fail(db_alias)

    addresses = [address("manage"), *(address(view, KEY, db_alias) for view in ("failures", "history", "status"))]

    assert [client.get(each + query).status_code for each in addresses] == [200] * 4


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"do": "resolve", "reason": "  "}, "A reason is required"),
        ({"do": "explode"}, "Nothing was changed"),
        ({"do": "retry", "ids": "123456"}, "None of these failed objects"),
        ({"do": "resolve", "group": "x", "reason": "y"}, "None of these failed objects"),
        ({"do": "retry", "group": ""}, "None of these failed objects"),
        *(
            ({"do": do, "reason": "y", "ids": ids}, "Found '")
            for do in ("retry", "resolve")
            for ids in ("abc", "-1", "", "+1", "1 2", "\u0661", "9" * 5_000, ["1", "x"])
        ),
    ],
)
@only_sqlite
def test_what_cannot_be_done_about_failures_is_said(client, db_alias, form, text):
    record = fail(db_alias)

    response = client.post(address("failures", KEY, db_alias), form)

    assert said(response)[0].startswith(text)
    assert MigrationRecord.objects.get().attempt_id == record.attempt_id
    assert FailedObject.objects.get().resolved_at is None


@pytest.mark.parametrize(("name", "value"), EVIL.items(), ids=EVIL)
def test_no_parameter_of_a_page_is_an_error_of_the_server(client, db_alias, name, value):
    fail(db_alias, status=Status.RUNNING)
    arguments = {view: [] if view == "manage" else [KEY, db_alias] for view in QUERIES}
    queries = {view: "&".join(f"{each}={value}" for each in names) for view, names in QUERIES.items()}
    asked = [f"{address(view, *arguments[view])}?{query}&{value}=1" for view, query in queries.items()]
    asked.append(f"{address('status', KEY, db_alias)}?at=0&done={value}")

    statuses = {client.get(each).status_code for each in asked}

    assert statuses == ({400} if name in UNUSABLE else {200})


@pytest.mark.parametrize(("name", "value"), EVIL.items(), ids=EVIL)
def test_no_field_of_a_form_is_an_error_of_the_server(client, db_alias, name, value):
    fail(db_alias)
    sent = [
        (view, "&".join(f"{key}={text}" for key, text in {**form, each: value}.items()))
        for view, form, names in FORMS
        for each in names
    ]

    statuses = {post(client, address(view, KEY, db_alias), body).status_code for view, body in sent}

    assert statuses <= ({400} if name in UNUSABLE else {200, 302, 400})


def post(client, where, body, charset=""):
    return client.post(where, body, content_type=f"application/x-www-form-urlencoded{charset}")


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "utf-16"])
@only_sqlite
def test_a_form_in_an_odd_encoding_is_an_error_of_who_sends_it(client, db_alias, charset):
    fail(db_alias)
    body = {"utf-7": "+2AA-"}.get(charset, "%5Cud800")

    response = post(client, address("failures", KEY, db_alias), f"do=resolve&reason={body}", f"; charset={charset}")

    assert response.status_code in (302, 400)


@pytest.mark.parametrize("part", ["~00", "testapp~00", "~ED~A0~80", "~FF", "%00", "%ED%A0%80", "~0", "x" * 5000])
@pytest.mark.parametrize("db_alias", ["default", "postgresql"], indirect=True)
def test_no_part_of_an_address_is_an_error_of_the_server(client, db_alias, part):
    sound = [address(view, KEY, db_alias) for view in VIEWS]
    found = [each.replace(*change) for each in sound for change in [(KEY, part), (f"/{db_alias}/", f"/{part}/")]]

    assert {client.get(each).status_code for each in found} == {404}


@pytest.mark.parametrize("text", ["a\x00", "\ud800", "a\udfffb"])
def test_what_no_database_stores_is_known(text):
    assert not is_storable(["sound", text])
    assert is_storable(["sound", "\ue000\U0001f600\n"])


@pytest.mark.parametrize("db_alias", ["default", "postgresql"], indirect=True)
@pytest.mark.parametrize(("name", "value"), EVIL.items(), ids=EVIL)
def test_no_parameter_of_the_admin_is_an_error_of_the_server(client, db_alias, name, value):
    fail(db_alias)
    lists = {model: reverse(f"admin:massmigration_{model}_changelist") for model in ("migrationrecord", "failedobject")}
    lists["event"] = reverse("admin:massmigration_event_changelist")
    filters = {
        "migrationrecord": ["q", "p", "o", "status__exact", "key"],
        "failedobject": ["q", "p", "o", "record__exact", "resolved_at__isempty", "pk"],
        "event": ["q", "p", "o", "key", "verb", "verb__exact"],
    }
    asked = [f"{lists[model]}?db={db_alias}&{each}={value}" for model, names in filters.items() for each in names]
    asked += [f"{lists[model]}?db={value}&_changelist_filters={value}" for model in lists]
    objects = [
        f"{where}{value or 'x'}/{page}/?db={db_alias}" for where in lists.values() for page in ("change", "history")
    ]
    add = reverse("admin:massmigration_migrationrecord_add") + f"?db={db_alias}"

    statuses = {client.get(each).status_code for each in [*asked, *objects]}
    statuses |= {post(client, add, f"key={value}{more}").status_code for more in ("", "&_fake=")}
    statuses |= {
        post(client, f"{lists['migrationrecord']}?db={db_alias}", form).status_code
        for form in (f"action=forget&_selected_action={value}", f"action={value}&_selected_action={KEY}")
    }

    assert statuses <= {200, 302, 400, 404}
