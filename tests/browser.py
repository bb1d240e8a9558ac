"""A real browser for the pages: Debian's Chromium, driven by playwright; without one the tests skip."""

import json
import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextmanager
def running(app):
    """Serve on a free port; give the address."""
    import uvicorn

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


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


def axe():
    """Return the source of axe-core; without it the test skips with a reason."""
    named = os.environ.get("NMFCORE_AXE")
    if not named:
        pytest.skip("accessibility: npm pack axe-core, and set NMFCORE_AXE to the axe.min.js inside")
    return Path(named).read_text(encoding="utf-8")


def violations(page, source):
    """Return what axe-core finds wrong with a page, a line each."""
    session = page.context.new_cdp_session(page)  # the page's own policy forbids scripts from elsewhere
    if not page.evaluate("typeof axe === 'object'"):
        session.send("Runtime.evaluate", {"expression": source})
    run = (
        "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations.map(one => "
        "`${one.id}: ${one.help}: ${one.nodes.map(node => node.target.join(' ')).join(', ')}`)))"
    )
    answer = session.send("Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True})
    session.detach()
    return json.loads(answer["result"]["value"])


def at_home(url, home):
    return url.startswith((home, "data:", "blob:"))
