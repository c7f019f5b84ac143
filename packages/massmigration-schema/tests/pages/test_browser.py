"""An online change in a real browser, from its start to the cutover."""

import pytest
from django.contrib.auth.models import User

from massmigration import api
from testsupport.browser_fixtures import badge, violations
from testsupport.shop_app import installed

KEY = "shop:0002_change.schema"
NAME = "0002_change.schema"
OPERATIONS = (
    'migrations.AddField("campaign", "likes", models.IntegerField(default=7)), '
    'migrations.RenameField("campaign", "description", "about")'
)

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server_alias", ["postgresql", "mariadb"], indirect=True)]


@pytest.fixture
def address(shop, site, tmp_path):
    """The page of a change that has not begun, of a table with rows."""
    shop.fill(30)
    User.objects.create_superuser("admin", password="admin")
    with installed(shop, tmp_path, OPERATIONS, direct_up_to=0, strategy="shadow"):
        yield f"{site}/migrations/detail/{KEY}/{shop.db_alias}/"


def confirm(page, action, typed):
    """Open the confirmation of an action of the engine, type this, and send it."""
    form = page.locator(f"[data-mm-verb={action}]")
    if not form.get_by_label(f"Type {NAME} to confirm:").is_visible():
        form.locator("summary").click()
    form.get_by_label(f"Type {NAME} to confirm:").fill(typed)
    form.get_by_role("button").click()


def test_a_change_is_started_watched_and_cut_over(shop, visit, address, has_admin):
    page = visit(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.get_by_text("ADD COLUMN").wait_for()
    found = {"before": violations(page, has_admin=has_admin)}

    page.get_by_role("link", name="Preview and launch").click()
    page.get_by_role("button", name="Launch").click()
    badge(page, "Waiting")
    page.locator("#mm-details").get_by_text("wait for the cutover").wait_for()
    page.locator("#mm-notices").get_by_text("Put the new table in the place").wait_for()
    found["waiting"] = violations(page, has_admin=has_admin)
    width = page.evaluate("document.documentElement.scrollWidth")
    confirm(page, "proceed", "0002")
    page.get_by_text("Nothing was changed: type 0002_change.schema to confirm.").wait_for()
    page.goto(address)
    confirm(page, "proceed", NAME)
    badge(page, "Applied")
    page.locator("#mm-details").get_by_text("Swapped").wait_for()
    found["applied"] = violations(page, has_admin=has_admin)

    assert found == {"before": [], "waiting": [], "applied": []}
    assert width <= 390
    assert shop.execute("SELECT DISTINCT likes FROM campaign") == [(7,)]


def test_a_change_is_aborted_in_the_browser(shop, visit, address, has_admin):
    before = shop.definition()
    page = visit()
    page.goto(address)
    page.get_by_role("link", name="Preview and launch").click()
    page.get_by_role("button", name="Launch").click()
    badge(page, "Waiting")

    page.get_by_role("link", name="Abort").click()
    assert violations(page, has_admin=has_admin) == []
    page.get_by_label(f"Type {NAME} to confirm:").fill(NAME)
    page.get_by_role("button", name="Abort").click()
    page.get_by_text("The table is as it was before.").wait_for()

    assert shop.definition() == before
    assert api.status(KEY, shop.db_alias) is None
