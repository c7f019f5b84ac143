"""The pages, as the browser's tests and the screenshots visit them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.test import Client
from django.urls import reverse

from testsupport import showcase
from testsupport.showcase import BLOCKED, EMPTYING, FAILED, PAUSED, READY, RUNNING, STUCK, WAITING


def log_in(context: Any, site: str) -> None:
    """Log the browser in as `admin`."""
    client = Client()
    assert client.login(username="admin", password="admin")
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": site}])


def _nothing(page: Any, db_alias: str) -> None:
    pass


def _watch(page: Any, db_alias: str) -> None:
    """Wait until the page shows a line of rates."""
    for rows in (900, 1500, 1100, 1700, 1600, 1300):
        showcase.advance(db_alias, rows)
        with page.expect_response(lambda response: "/status/" in response.url):
            pass
    page.locator("#mm-spark").wait_for()


def _open_cancel(page: Any, db_alias: str) -> None:
    page.locator("[data-mm-verb=cancel] summary").click()


def _open_proceed(page: Any, db_alias: str) -> None:
    page.locator("[data-mm-verb=proceed] summary").click()


def _open_forget(page: Any, db_alias: str) -> None:
    page.locator("[data-mm-verb=forget] summary").click()


def _try(page: Any, db_alias: str) -> None:
    page.get_by_role("button", name="Dry run").click()
    page.locator("#dry-run").wait_for()
    page.locator("summary").first.click()


def _open_resolve(page: Any, db_alias: str) -> None:
    page.get_by_text("Resolve", exact=True).first.click()


def _open_resolve_all(page: Any, db_alias: str) -> None:
    page.get_by_text("Mark all of them as resolved").click()


ADDRESSES = {
    "list": ("manage", None),
    "list-failed": ("manage", None),
    "list-nothing": ("manage", None),
    "detail-running": ("detail", RUNNING),
    "detail-cancelling": ("detail", RUNNING),
    "detail-stuck": ("detail", STUCK),
    "detail-paused": ("detail", PAUSED),
    "detail-waiting": ("detail", WAITING),
    "detail-proceeding": ("detail", WAITING),
    "detail-failed": ("detail", FAILED),
    "detail-not-run": ("detail", READY),
    "detail-gone": ("detail", showcase.GONE),
    "detail-broken": ("detail", showcase.BROKEN),
    "run": ("run", READY),
    "run-tried": ("run", READY),
    "run-blocked": ("run", BLOCKED),
    "run-asking": ("run", EMPTYING),
    "run-broken": ("run", showcase.BROKEN),
    "failures": ("failures", FAILED),
    "failures-resolving": ("failures", FAILED),
    "failures-group": ("failures", FAILED),
    "failures-group-resolving": ("failures", FAILED),
    "failures-none": ("failures", RUNNING),
    "history": ("history", PAUSED),
    "pace": ("pace", PAUSED),
    "everything": ("everything", None),
    "confirm": ("delete", FAILED),
    "confirm-own": ("action", WAITING),
}
QUERIES = {
    "list-failed": "?status=failed",
    "list-nothing": "?q=nothing+has+this+name",
    "failures-group": "?group=" + "a" * 64,
    "failures-group-resolving": "?group=" + "b" * 64,
}
PAGES: dict[str, Any] = dict.fromkeys(ADDRESSES, _nothing) | {
    "detail-running": _watch,
    "detail-cancelling": _open_cancel,
    "detail-proceeding": _open_proceed,
    "detail-failed": _open_forget,
    "run-tried": _try,
    "failures-resolving": _open_resolve_all,
    "failures-group-resolving": _open_resolve,
}


def address_of(page: Any, site: str, name: str, db_alias: str = "default") -> None:
    """Go to the page of this name in `PAGES`."""
    view, key = ADDRESSES[name]
    showcase.renew(db_alias)
    first = {"action": ["compare"], "everything": ["pause-all"]}.get(view, [])
    arguments = [*first, *([key, db_alias] if key else [])]
    page.goto(site + reverse(f"massmigration_{view}", args=arguments) + QUERIES.get(name, ""))
