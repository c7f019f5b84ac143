"""Fixtures of tests that visit pages in a real browser. A `conftest.py` imports them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from testsupport import browser
from testsupport.live_server import project, serving
from testsupport.pages import log_in

AXE = """async (part) => {
    const found = await axe.run(part ? {include: [part]} : document, {resultTypes: ["violations"]});
    return found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" | ")}`);
}"""
TOO_LONG = 60_000


@pytest.fixture(scope="module")
def chromium(django_db_setup: None) -> Iterator[Any]:
    """Start the browser, once for each module."""
    try:
        with pytest.MonkeyPatch.context() as patch, browser.launched() as found:
            # Playwright keeps an event loop in this thread, which uses the database, too.
            patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
            yield found
    except browser.NoBrowser as error:
        if os.environ.get("MM_TEST_BROWSER"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(params=[True, False], ids=["admin", "standalone"])
def has_admin(request: pytest.FixtureRequest) -> bool:
    """Run a test with the admin, then without it."""
    return bool(request.param)


@pytest.fixture
def site(has_admin: bool) -> Iterator[str]:
    """Serve the test project. A module that uses a database lists its fixture first."""
    with project(has_admin=has_admin), serving() as address:
        yield address


@pytest.fixture
def visit(chromium: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Open pages as `admin`. Fail if the console shows an error."""
    contexts: list[Any] = []
    said: list[str] = []

    def opened(**options: Any) -> Any:
        context = chromium.new_context(**options)
        context.set_default_timeout(TOO_LONG)
        contexts.append(context)
        log_in(context, site)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text} {message.location}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in said if "favicon" not in line] == []


def violations(page: Any, *, has_admin: bool) -> list[str]:
    """Return the rules of accessibility that a page violates."""
    import axe_playwright_python as axe  # in the dependency group of the browser

    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    # Django 4.2's own frame has no main landmark, forbids zooming, and has pale links: test only our content.
    part = "#content" if has_admin and django.VERSION < (5, 2) else None
    page.evaluate(script)  # as a debugger would: the page's policy stays as it is
    return list(page.evaluate(AXE, part))


def badge(page: Any, text: str) -> None:
    """Wait until the page shows this status."""
    page.locator("#mm-badge").get_by_text(text, exact=True).wait_for()


def press(page: Any, name: str) -> None:
    """Open the confirmation of an action, and confirm it."""
    page.locator(f"[data-mm-verb={name}] summary").click()
    page.locator(f"[data-mm-verb={name}] button").click()
