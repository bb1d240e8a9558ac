"""A real browser for the pages: Debian's Chromium, driven by playwright; without one the tests skip."""

import shutil
import time
from contextlib import contextmanager

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextmanager
def chromium():
    """Start a browser, or skip the test with a reason."""
    api = pytest.importorskip("playwright.sync_api", reason="pages are opened with playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page whose complaints and requests are written down."""

    def __init__(self, browser, width, home, dark=False):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        self.page.set_default_timeout(20_000)
        self.complaints, self.strangers = [], []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type in BAD else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda request: None if at_home(request.url, home) else self.strangers.append(request.url)
        )

    def until(self, expression):
        """Wait for an expression to hold; playwright's own way needs eval, which the page forbids."""
        deadline = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(20)

    def check(self):
        """No error in the console, no request to anywhere else, nothing wider than the window."""
        assert self.complaints == []
        assert self.strangers == []
        assert self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


BAD = ("error", "warning")


def at_home(url, home):
    return url.startswith((home, "data:", "blob:"))
