"""An alarm of the drift monitor on the service's page, and the buttons that take it back."""

import re

import pytest
from browsers import NEEDED
from test_drift_shown import give, served_model, stream
from test_service_browser import expect, opened

from anomaly_lightning.runtime.drift_measures import MEASURES

from served import serving  # isort: skip

__all__ = ["served_model", "stream"]
pytestmark = NEEDED


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_an_alarm_stands_above_all_else_until_it_is_taken_back(browser, served_model, stream, tmp_path, width, scheme):
    usual, dark = stream
    with serving(tmp_path) as service:
        give(service, usual)
        with opened(browser, service, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
            expect(page, "#drift").to_contain_text("toy: no drift in 30 images (at most one false alarm in 10000)")
            give(service, dark)
            page.reload()
            expect(page, "#drift h2").to_have_text("Drift: camera or lighting")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=tmp_path / "drift.png")
            page.get_by_role("button", name="This is how it is now").click()
            expect(page, "#drift").to_contain_text("no drift in 55 images")
        assert service.get("/v1/models").json()[0]["drift"]["compared_with"] == 0


def test_every_measure_is_called_by_words(browser, served_model, tmp_path):
    alarm = {"cause": "camera or lighting", "words": "Look.", "since": 1, "image": 3, "time": "2026-11-28T12:00:00Z"}
    with serving(tmp_path) as service, opened(browser, service) as page:
        known = service.get("/v1/models").json()[0]
        alarms = [{**known, "drift": {"alarm": {**alarm, "measure": name}}} for name in MEASURES]
        page.route("**/v1/models", lambda route: route.fulfill(json=alarms))
        page.reload()
        expect(page, "#drift h2").to_have_count(len(MEASURES))
        seen = re.findall(r"Seen in (.*?), since", page.locator("#drift").inner_text())
        assert len(set(seen)) == len(seen) == len(MEASURES)
        assert not [words for words in seen if "_" in words]
