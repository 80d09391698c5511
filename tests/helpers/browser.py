"""For tests in a real browser: Debian's Chromium through Playwright, without any other network than
127.0.0.1.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE_MS = 60_000  # MLflow's pages are 20 MB of script, and a machine may be busy


def chromium() -> str:
    """Where the system's Chromium lies; skips where it or Playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or pytest.skip("needs Chromium (Debian package chromium)")


@contextmanager
def window(chromium: str, width: int = 1500, height: int = 1000) -> Iterator[tuple[Any, list[str]]]:
    """A page of Chromium, and the list of addresses elsewhere that it has asked for."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as started:
        # a container's root has no sandbox
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        page.context.route(
            lambda url: not url.startswith(("http://127.0.0.1:", "data:", "blob:")),
            lambda route: _refuse(route, asked),
        )
        yield page, asked
        browser.close()


def _refuse(route: Any, asked: list[str]) -> None:
    asked.append(route.request.url)
    route.abort()
