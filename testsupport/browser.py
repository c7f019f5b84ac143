"""A real browser for the tests, found on the machine or downloaded once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DOWNLOAD_SECONDS = 120
ADVICE = (
    "No browser was found. Install Chromium (apt-get install chromium), or set MM_TEST_BROWSER to the path of one; "
    "then run again."
)


class NoBrowser(Exception):
    """There is no browser, and none could be downloaded."""


def find() -> str | None:
    """Return the path of the browser in the environment or on PATH, or None for Playwright's own."""
    given = os.environ.get("MM_TEST_BROWSER", "")
    if given not in ("", "require"):
        if not Path(given).exists():
            raise NoBrowser(f"MM_TEST_BROWSER names {given!r}, which is not there.")
        return given
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Yield a browser. Raise `NoBrowser` if there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowser("The package playwright is not installed: pip install --group browser.") from error
    path = find()
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            _download()
            if not Path(playwright.chromium.executable_path).exists():
                raise NoBrowser(ADVICE)
        # A new profile each time; without a sandbox, which needs rights that containers do not give.
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def _download() -> None:
    command = [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=DOWNLOAD_SECONDS, check=False)
