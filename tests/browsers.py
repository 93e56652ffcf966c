"""Headless Chromium for the tests of pages."""

import contextlib
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
sync_api.expect.set_options(timeout=30_000)  # a busy machine is no failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# a container's /dev/shm may be too small for what a page and its requests hold
NOT_WANTED = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
NEEDED = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
]


@contextlib.contextmanager
def chromium():
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", *(f"--disable-{one}" for one in NOT_WANTED)]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags, *CAMERA])
        yield browser
        browser.close()


class Held:
    """Requests that a page makes for some addresses, held back until they are let go.

    Args:
        pattern: Playwright's, of the addresses.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern, self.routes, self.held = pattern, [], True

    def hold(self, page) -> None:
        page.route(self.pattern, self._take)

    def let_go(self, page) -> None:
        self.held = False  # what comes from here on is not held, and can't be forgotten
        for route in self.routes:
            route.continue_()
        page.unroute(self.pattern)

    def _take(self, route) -> None:
        if self.held:
            self.routes.append(route)
        else:
            route.continue_()
