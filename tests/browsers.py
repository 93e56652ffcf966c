"""Headless Chromium for the tests of pages."""

import contextlib
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

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
