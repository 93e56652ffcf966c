"""An alarm of the drift monitor on the service's page, and the buttons that take it back."""

import pytest
from test_drift_shown import give, served_model, stream
from test_service_browser import browser, expect, opened, pytestmark

from served import serving  # isort: skip

__all__ = ["browser", "pytestmark", "served_model", "stream"]


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
