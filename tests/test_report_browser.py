"""The report in headless Chromium: what a person does with it, held against what Python computes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import NEEDED, sync_api
from report_run import AWKWARD, THRESHOLD, make_metrics, make_results, make_run, write_history
from scipy.stats import binom

from anomaly_lightning import metrics
from anomaly_lightning.reports.page import write_report
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.decision import exceeds

pytestmark = NEEDED


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return make_results(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def report(tmp_path_factory, results) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_history(folder)
    return write_report(folder, results, make_metrics(results), make_run())


@pytest.fixture
def page(browser, report):
    """The opened report; at the end of each test nothing has been asked of the network, and nothing complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    settled(page)
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    context.close()


def settled(page) -> None:
    """Wait until the page has drawn what was asked of it."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def text(page, selector: str) -> str:
    return page.locator(selector).inner_text()


def gallery(page) -> list[int]:
    """Places of the images in the gallery, in its order."""
    return page.eval_on_selector_all("#gallery .tile", "tiles => tiles.map(tile => Number(tile.dataset.index))")


def check_metrics(page, results: Results, threshold: float) -> None:
    settled(page)
    image, _ = metrics.image_metrics(results.scores, results.labels, threshold, bootstrap=0)
    for name, count in image["confusion"].items():
        assert text(page, f"#{name}") == str(count)
    for name in ("precision", "recall", "f1"):
        shown = text(page, f"#{name}").split("\n")[0]
        assert shown == ("\u2013" if image[name] is None else f"{image[name]:.3f}")
    assert text(page, "#per-thousand").split("\n")[0] == f"{1000 * image['false_alarm_rate']:.0f}"


def threshold_of(page) -> float:
    return page.evaluate("state.threshold")


def drag(page, place: int) -> None:
    page.locator("#slider").evaluate(
        "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input', {bubbles: true})) }", place
    )


def test_first_view_is_the_calibrated_threshold(page, results):
    assert threshold_of(page) == THRESHOLD
    check_metrics(page, results, THRESHOLD)
    assert page.locator("#honesty").is_hidden()
    assert page.locator("#reset").is_disabled()


def test_the_page_decides_with_the_margin_that_python_has(page):
    for threshold in (2.0, -2.0, 0.0, 1e-30):
        for score in (
            threshold * (1 + 3e-6),
            threshold * (1 - 3e-6),
            threshold + 0.001 * abs(threshold),
            1e-31,
            -1e-31,
        ):
            assert page.evaluate(f"exceeds({score!r}, {threshold!r})") == exceeds(score, threshold)


@pytest.mark.parametrize("place", [0, 137, 400, 731, 1000])
def test_slider_shows_what_python_computes(page, results, place):
    drag(page, place)
    check_metrics(page, results, threshold_of(page))
    assert page.locator("#honesty").is_visible()
    found = sum(
        float(score) > threshold_of(page)
        for score, sample in zip(results.scores, results.samples, strict=True)
        if sample.defect == "crack"
    )
    assert text(page, "[data-found=crack]") == str(found)


@pytest.mark.parametrize("threshold", [0.4, 0.75, 1.5, 2.25, 7.0])
def test_typed_threshold_shows_what_python_computes(page, results, threshold):
    page.fill("#exact", str(threshold))
    check_metrics(page, results, threshold)


@pytest.mark.parametrize("threshold", [THRESHOLD, 0.6, 2.75])
def test_intervals_of_shares_are_those_of_python(page, results, threshold):
    page.fill("#exact", str(threshold))
    settled(page)
    image, _ = metrics.image_metrics(results.scores, results.labels, threshold, bootstrap=10)
    for name in ("precision", "recall"):
        low, high = image["ci95"][name]
        assert f"95 %: {low:.3f} to {high:.3f}" in text(page, f"#{name}")
    low, high = image["ci95"]["false_alarm_rate"]
    assert f"95 %: {1000 * low:.0f} to {1000 * high:.0f}" in text(page, "#per-thousand")


def confusion(tp: int, bad: int, fp: int, good: int) -> dict[str, int]:
    return {"tp": tp, "fp": fp, "tn": good - fp, "fn": bad - tp}


def summed_interval(tp: int, bad: int, fp: int, good: int) -> list[float]:
    """Percentiles of F1 over every pair of hits and alarms that a resample can have."""
    hits, alarms = np.arange(bad + 1)[:, None], np.arange(good + 1)
    f1 = (2 * hits / (hits + alarms + bad)).ravel()
    chances = (binom.pmf(hits, bad, tp / bad) * binom.pmf(alarms, good, fp / good)).ravel()
    order = np.argsort(f1)
    reached = np.cumsum(chances[order])
    return [float(f1[order][np.searchsorted(reached, level)]) for level in (0.025, 0.975)]


COUNTS = [
    (40, 50, 6, 70),
    (1, 1, 0, 1),
    (0, 9, 3, 5),
    (9, 9, 0, 30),
    (9, 9, 30, 30),
    (3, 4, 1, 500),
    (700, 900, 45, 800),
]


@pytest.mark.parametrize("counts", COUNTS)
def test_interval_of_f1_is_the_sum_over_all_resamples(page, counts):
    shown = page.evaluate("counts => f1Interval(counts)", confusion(*counts))
    assert shown == pytest.approx(summed_interval(*counts), abs=1e-9)


@pytest.mark.parametrize(("tp", "bad", "fp", "good"), COUNTS)
def test_interval_of_f1_is_that_of_resampled_images(page, tp, bad, fp, good):
    """Python draws images, the page sums over draws: apart by no more than chance and a step of F1, here 0.01."""
    called = torch.cat([torch.arange(bad) < tp, torch.arange(good) < fp])
    image, _ = metrics.image_metrics(called.float(), torch.arange(bad + good) < bad, 0.5, bootstrap=5000)
    shown = page.evaluate("counts => f1Interval(counts)", confusion(tp, bad, fp, good))
    assert shown == pytest.approx(image["ci95"]["f1"], abs=0.01)


def test_interval_of_f1_is_that_of_metrics_json_until_the_threshold_is_moved(page, results):
    low, high = make_metrics(results)["image"]["ci95"]["f1"]
    assert text(page, "#f1").split("\n")[1] == f"95 %: {low:.3f} to {high:.3f}"
    page.fill("#exact", "1.6")  # above it: 6 of 8 defects and 3 of 8 good parts
    settled(page)
    low, high = summed_interval(6, 8, 3, 8)
    assert text(page, "#f1").split("\n")[1] == f"95 %: {low:.3f} to {high:.3f}"


def test_slider_obeys_the_keyboard_and_says_its_value(page, results):
    page.focus("#slider")
    page.keyboard.press("End")
    assert float(page.get_attribute("#slider", "aria-valuetext")) == pytest.approx(threshold_of(page), rel=1e-3)
    check_metrics(page, results, threshold_of(page))
    sync_api.expect(page.locator("#spoken")).to_contain_text("8 missed, 0 false alarms")


def test_button_goes_back_to_the_calibrated_threshold(page, results):
    drag(page, 10)
    page.click("#reset")
    assert threshold_of(page) == THRESHOLD
    check_metrics(page, results, THRESHOLD)
    assert page.locator("#honesty").is_hidden()


def test_gallery_follows_the_threshold(page, results):
    page.select_option("#decided", "ng")
    for threshold in (THRESHOLD, 4.5, 0.1):
        page.fill("#exact", str(threshold))
        settled(page)
        assert sorted(gallery(page)) == [i for i, score in enumerate(results.scores) if score > threshold]
    assert page.locator("#gallery .tile.wrong").count() == int((~results.labels).sum())


def test_filters(page, results):
    page.select_option("#defect", "<i>dent")
    settled(page)
    assert sorted(gallery(page)) == [i for i, sample in enumerate(results.samples) if sample.defect == "<i>dent"]
    page.select_option("#decided", "ok")
    settled(page)
    assert [float(results.scores[i]) for i in sorted(gallery(page))] == [0.75, 2.0]
    page.select_option("#defect", "")
    page.select_option("#decided", "wrong")
    settled(page)
    wrong = (results.scores > THRESHOLD) != results.labels
    assert sorted(gallery(page)) == wrong.nonzero()[:, 0].tolist()
    assert text(page, "#shown") == f"{int(wrong.sum())} of 16 images."


def test_sorting(page, results):
    scores = results.scores.tolist()
    signs = [-1 if bad else 1 for bad in results.labels]
    wrongness = [sign * (score - THRESHOLD) for sign, score in zip(signs, scores, strict=True)]
    expected = {
        "wrong": sorted(range(16), key=lambda i: -wrongness[i]),
        "high": sorted(range(16), key=lambda i: -scores[i]),
        "low": sorted(range(16), key=lambda i: scores[i]),
    }
    for order, places in expected.items():
        page.select_option("#sort", order)
        settled(page)
        assert gallery(page) == places
    page.select_option("#sort", "name")
    settled(page)
    names = [results.samples[i].path.parent.name for i in gallery(page)]
    assert names == sorted(names)


def test_click_enlarges_arrows_walk_escape_closes(page):
    order = gallery(page)
    page.locator("#gallery .tile").nth(1).click()
    dialog = page.locator("#dialog")
    assert dialog.is_visible()
    for key, place in (("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert page.evaluate("state.open") == order[place]
    assert page.locator("#previous").is_disabled()
    page.click("#next")
    page.click("#next")
    assert "Image 3 of 16." in text(page, "#dialog-text")
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    # The page learns of the closing by an event of its own, after the key has been handled: wait for what it does then.
    sync_api.expect(page.locator(f"#gallery .tile[data-index='{order[2]}']")).to_be_focused()


def test_arrows_in_the_dialog_s_slider_move_the_slider(page):
    page.locator("#gallery .tile").first.click()
    page.focus("#dialog-opacity")
    before = page.evaluate("state.open")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.open") == before
    assert page.input_value("#dialog-opacity") == "56"
    assert page.input_value("#opacity") == "56"


def test_tile_opens_by_the_keyboard(page):
    page.locator("#gallery .tile").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#dialog").is_visible()


def test_strips_open_what_they_show(page, results):
    tile = page.locator(".strip .tile").first
    tile.click()
    worst = max((i for i, bad in enumerate(results.labels) if not bad), key=lambda i: float(results.scores[i]))
    assert page.evaluate("state.open") == worst


def test_heatmap_opacity_and_outlines(page):
    heat = page.locator("#gallery .heat").first
    page.locator("#opacity").evaluate("e => { e.value = 20; e.dispatchEvent(new Event('input', {bubbles: true})) }")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.2"
    truth = page.locator("#gallery .tile.wrong path.truth").first
    assert truth.evaluate("e => getComputedStyle(e).display") == "inline"
    page.uncheck("#show-truth")
    assert truth.evaluate("e => getComputedStyle(e).display") == "none"


def test_images_are_drawn_and_maps_lie_on_them(page):
    page.select_option("#sort", "high")
    settled(page)
    first = page.locator("#gallery .tile").first
    first.scroll_into_view_if_needed()
    for name in ("image", "heat"):
        image = first.locator(f"img.{name}")
        image.evaluate("e => e.decode()")
        assert image.evaluate("e => e.naturalWidth") > 0
    boxes = [first.locator(s).bounding_box() for s in ("img.image", "img.heat", "svg")]
    assert boxes[0] == boxes[1] == boxes[2]
    # The predicted region and the true one share their middle, in the browser's own geometry.
    middles = first.locator("path:not(.edge)").evaluate_all(
        "paths => paths.map(p => { const b = p.getBBox(); return [b.x + b.width / 2, b.y + b.height / 2] })"
    )
    assert middles[0] == pytest.approx(middles[1], rel=0.1)


def test_names_stay_text(page):
    for name in AWKWARD:
        assert page.locator("#gallery .tile").evaluate_all(
            "(tiles, name) => tiles.some(tile => tile.getAttribute('aria-label').startsWith(name))", f"good/{name}.png:"
        )
    assert page.locator("#gallery script, #gallery b, #gallery i").count() == 0


def test_every_control_has_a_name(page):
    page.locator("#gallery .tile").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input")].filter(e =>
             !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.id)"""
    )
    assert nameless == []
    images = page.locator("[role=img]")
    assert all(images.nth(i).get_attribute("aria-label") for i in range(images.count()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_reads_in_either_scheme(browser, report, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#gallery .tile").first.click()
    assert page.locator("#dialog").bounding_box()["width"] <= 360
    contrasts = page.evaluate(
        """() => ["--text", "--quiet", "--wrong"].map(name => {
             const style = getComputedStyle(document.documentElement);
             return [style.getPropertyValue(name), style.getPropertyValue("--page")].map(colour => colour.trim());
        })"""
    )
    assert all(contrast(*pair) >= 4.5 for pair in contrasts)  # WCAG 2.2, criterion 1.4.3
    context.close()


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two #rrggbb colours, by WCAG 2.2."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_normals_only(browser, tmp_path):
    results = make_results(tmp_path / "data", defects=False)
    (tmp_path / "run").mkdir()
    report = write_report(tmp_path / "run", results, make_metrics(results), make_run())
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.as_uri())
    drag(page, 0)
    settled(page)
    assert text(page, "#precision").split("\n") == ["\u2013", "there are no defects"]
    assert text(page, "#recall").split("\n") == ["\u2013", "there are no defects"]
    assert text(page, "#per-thousand").split("\n")[0] == "1000"
    assert errors == []
    page.close()
