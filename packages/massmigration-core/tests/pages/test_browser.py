"""The pages in a real browser, served with a policy that forbids every inline script and style."""

import time

import pytest
from django.contrib.auth.models import User
from django.db.models import F

from massmigration.backends.local import pool
from massmigration.migrations import Detail, MapperMigration
from massmigration.models import MigrationRecord
from massmigration.states import Status
from testsupport import showcase
from testsupport.browser_fixtures import badge, press, violations
from testsupport.inline_migrations import register
from testsupport.pages import PAGES, address_of
from testsupport.testapp.models import Item

SLOW_KEY, FAILING_KEY = "testapp:9000_slow", "testapp:9001_failing"
ROWS = 600
BAD = "bad"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Slow(MapperMigration):
    """Counts every item, slowly."""

    batch_size = 20
    gate: float = 0.015

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        time.sleep(queryset.update(n=F("n") + 1) * self.gate)


class Failing(MapperMigration):
    """Gives every item a slug; raises for those named bad."""

    update_fields = ["slug"]
    on_error = "continue"

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        if obj.name == BAD:
            raise ValueError("a bad name")
        obj.slug = obj.name


@pytest.fixture
def site(db_alias, site):
    """The served project, which uses this database."""
    return site


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def share(page):
    return int(page.locator("#mm-progress").evaluate("bar => bar.value"))


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_migration_is_tried_started_watched_paused_and_resumed(visit, site, db_alias, monkeypatch):
    register(monkeypatch, Slow, "9000_slow")
    User.objects.create_superuser("admin", password="admin")
    Item.objects.bulk_create(Item(name=f"item {number}") for number in range(ROWS))
    page = visit()

    page.goto(f"{site}/migrations/?q=9000_slow")
    page.get_by_role("link", name="Run testapp:9000_slow on default").click()
    page.get_by_role("button", name="Dry run").click()
    page.locator("#dry-run").get_by_text("Nothing was saved.").wait_for()
    assert page.locator("ins").count() == 10
    page.get_by_role("button", name="Launch 9000_slow on default").click()
    badge(page, "Running")
    wait_until(lambda: share(page) > 50)
    first = share(page)
    wait_until(lambda: share(page) > first)
    press(page, "pause")
    badge(page, "Paused")
    wait_until(lambda: not pool.waiting)
    with page.expect_response("**/status/**"):
        pass
    stopped = share(page)
    done = Item.objects.filter(n=1).count()
    with page.expect_response("**/status/**"):
        pass
    assert (share(page), Item.objects.filter(n=1).count()) == (stopped, done)
    assert 0 < done < ROWS
    monkeypatch.setattr(Slow, "gate", 0)
    press(page, "resume")
    badge(page, "Applied")

    assert share(page) == 1000
    assert list(Item.objects.values_list("n", flat=True).distinct()) == [1]


class Asking(Slow):
    """Counts every item, slowly, and asks before it counts them again."""

    def get_stages(self):
        (stage,) = super().get_stages()
        return [stage, self.wait("Are they counted?"), stage, self.wait("And now?")]

    def get_details(self, db_alias):
        return [Detail(label="Counts", value=sum(Item.objects.values_list("n", flat=True)))]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_migration_asks_while_its_page_is_open_and_proceeds(visit, site, db_alias, monkeypatch):
    register(monkeypatch, Asking, "9000_slow")
    User.objects.create_superuser("admin", password="admin")
    Item.objects.bulk_create(Item(name=f"item {number}") for number in range(60))
    page = visit()
    page.goto(f"{site}/migrations/run/{SLOW_KEY}/default/")
    page.get_by_role("button", name="Launch 9000_slow on default").click()
    badge(page, "Waiting")

    page.locator("#mm-notices").get_by_text("Are they counted?").wait_for()
    page.locator("#mm-details").get_by_text("60", exact=True).wait_for()
    proceed = page.locator("[data-mm-verb=proceed]")
    proceed.locator("summary").click()
    assert proceed.locator("[data-mm-question]").inner_text() == "Are they counted?"
    proceed.get_by_label("Type 9000_slow to confirm:").fill("9000_slow")
    proceed.get_by_role("button").click()
    page.locator("#mm-notices").get_by_text("And now?").wait_for()
    proceed.locator("summary").click()
    assert proceed.locator("[data-mm-question]").inner_text() == "And now?"
    proceed.get_by_label("Type 9000_slow to confirm:").fill("9000_slow")
    proceed.get_by_role("button").click()
    badge(page, "Applied")

    assert list(Item.objects.values_list("n", flat=True).distinct()) == [2]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_question_that_was_answered_meanwhile_is_not_confirmed(visit, site, db_alias, monkeypatch):
    register(monkeypatch, Asking, "9000_slow")
    User.objects.create_superuser("admin", password="admin")
    record = MigrationRecord.objects.create(key=SLOW_KEY, status=Status.WAITING, stage=1)
    page = visit()
    page.goto(f"{site}/migrations/detail/{SLOW_KEY}/default/")
    proceed = page.locator("[data-mm-verb=proceed]")
    proceed.locator("summary").click()
    MigrationRecord.objects.update(stage=3)
    page.locator("#mm-notices").get_by_text("And now?").wait_for()

    assert proceed.locator("[data-mm-question]").inner_text() == "Are they counted?"

    proceed.get_by_label("Type 9000_slow to confirm:").fill("9000_slow")
    proceed.get_by_role("button").click()
    page.get_by_text("Nothing was changed: the migration has changed since you opened the page.").wait_for()

    record.refresh_from_db()
    assert (record.status, record.stage) == (Status.WAITING, 3)


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_failed_migration_is_mended_and_retried(visit, site, db_alias, monkeypatch):
    register(monkeypatch, Failing, "9001_failing")
    User.objects.create_superuser("admin", password="admin")
    Item.objects.bulk_create(Item(name=BAD if number in (5, 25) else "good") for number in range(40))
    page = visit()

    page.goto(f"{site}/migrations/run/{FAILING_KEY}/default/")
    page.get_by_role("button", name="Launch 9001_failing on default").click()
    badge(page, "Failed")
    page.get_by_role("link", name="Failures").click()
    page.get_by_role("heading", name="ValueError: a bad name").wait_for()
    assert page.locator("section table tbody tr").count() == 2
    Item.objects.filter(name=BAD).update(name="fixed")
    page.get_by_role("button", name="Retry this group").click()
    badge(page, "Applied")

    assert MigrationRecord.objects.get(key=FAILING_KEY).status == Status.APPLIED
    assert Item.objects.filter(slug="fixed").count() == 2


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_every_page_is_accessible_in_light_and_in_dark(visit, site, db_alias, has_admin):
    found = {}
    with showcase.shown(db_alias):
        for scheme in ("light", "dark"):
            page = visit(color_scheme=scheme)
            for name, steps in PAGES.items():
                address_of(page, site, name)
                steps(page, db_alias)
                violated = violations(page, has_admin=has_admin)
                if violated:
                    found[f"{name} in {scheme}"] = violated

    assert found == {}


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
@pytest.mark.parametrize("has_admin", [False], indirect=True, ids=["standalone"])
def test_the_pages_work_without_javascript_and_fit_a_phone(visit, site, db_alias):
    with showcase.shown(db_alias):
        page = visit(java_script_enabled=False, viewport={"width": 390, "height": 844})
        address_of(page, site, "detail-running")
        press(page, "pause")
        page.get_by_text("is paused on default").wait_for()

        with_scripts = visit(viewport={"width": 390, "height": 844})
        widths = {}
        for name in PAGES:
            address_of(with_scripts, site, name)
            widths[name] = with_scripts.evaluate("document.documentElement.scrollWidth")

    assert MigrationRecord.objects.get(key=showcase.RUNNING).status == Status.PAUSED
    assert {name: width for name, width in widths.items() if width > 390} == {}


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
@pytest.mark.parametrize("has_admin", [False], indirect=True, ids=["standalone"])
def test_what_has_the_focus_keeps_it_while_the_page_moves(visit, site, db_alias):
    with showcase.shown(db_alias):
        page = visit()
        address_of(page, site, "detail-running")
        page.locator("[data-mm-verb=cancel] summary").focus()
        before = page.locator("#mm-percent").inner_text()
        showcase.advance(db_alias, 40_000)
        wait_until(lambda: page.locator("#mm-percent").inner_text() != before)

        assert page.evaluate("document.activeElement.closest('[data-mm-verb]').dataset.mmVerb") == "cancel"
        MigrationRecord.objects.filter(key=showcase.RUNNING).update(status=Status.PAUSED)
        page.locator("#mm-said").get_by_text("Paused").wait_for(state="attached")
        assert page.evaluate("document.activeElement.closest('[data-mm-verb]').dataset.mmVerb") == "cancel"
