"""Screenshots of every page, in light, in dark and on a phone, for `nox -s screenshots`."""

from __future__ import annotations

from pathlib import Path

import pytest

from testsupport import browser, showcase
from testsupport.live_server import project, serving
from testsupport.pages import PAGES, address_of, log_in

FOLDER = Path(__file__).parent.parent / "screenshots"
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("has_admin", [True, False], ids=["admin", "standalone"])
@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_every_page_has_its_picture_taken(db_alias, has_admin, monkeypatch):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    folder = FOLDER / ("admin" if has_admin else "standalone")
    folder.mkdir(parents=True, exist_ok=True)
    with project(has_admin=has_admin), showcase.shown(db_alias), serving() as site, browser.launched() as chromium:
        for look, options in LOOKS.items():
            context = chromium.new_context(**options)
            log_in(context, site)
            page = context.new_page()
            for name, steps in PAGES.items():
                address_of(page, site, name)
                steps(page, db_alias)
                page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
            context.close()
