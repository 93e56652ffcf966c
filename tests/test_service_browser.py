"""The service's page in headless Chromium: images in, verdicts, heatmap and regions out, the list of all decisions."""

import contextlib
import logging
import re

import pytest
from browsers import NEEDED, Held, sync_api
from served import TOKEN, encoded, inspector, serving, spotted

pytest.importorskip("fastapi", reason="needs the extra serve")
pytestmark = NEEDED
logger = logging.getLogger(__name__)


@pytest.fixture
def service(tmp_path):
    with serving(tmp_path, max_pixels=3_000_000) as it:
        yield it


@contextlib.contextmanager
def opened(browser, service, before=None, **options):
    """The page, after `before(page)`; at the end nobody but the service was asked, and no script complained."""
    with contextlib.closing(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})) as context:
        yield from _opened(context, service, before)


def _opened(context, service, before):
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints, requests = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Security Policy" in said.text else None)
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: logger.warning("%s %s: %s", request.method, request.url, request.failure))
    if before:
        before(page)
    page.goto(f"{service.url}/")
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith((service.url, "data:", "blob:"))] == []


@pytest.fixture
def page(browser, service):
    with opened(browser, service) as page:
        yield page


def give(page, *images):
    files = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in images]
    page.set_input_files("#files", files)


def expect(page, selector):
    return sync_api.expect(page.locator(selector))


def test_an_image_gets_its_verdict_its_heatmap_and_its_regions(page):
    said = inspector()(spotted())
    give(page, ("part.png", encoded(spotted())))
    expect(page, "#verdict").to_have_text("NG")
    assert page.locator("#name").inner_text() == "part.png, 60 \u00d7 40 pixels"
    assert float(page.locator("#score").inner_text()) == pytest.approx(said.score, rel=1e-3)
    assert float(page.locator("#threshold").inner_text()) == said.threshold
    assert page.locator("#level").evaluate("e => e.style.width") == "100%"
    left, top, width, height = said.regions[0].box
    row = page.locator("#regions tbody tr")
    assert row.locator("td").all_inner_texts()[1:4] == [
        f"{left}, {top}",
        f"{width} \u00d7 {height}",
        str(said.regions[0].area),
    ]
    box = page.locator("#outlines path.line").evaluate(
        "e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] }"
    )
    assert box == [left, top, width, height]
    page.locator("#heat").evaluate("e => e.decode()")
    sizes = [page.locator(one).bounding_box() for one in ("#image", "#heat", "#outlines")]
    assert sizes[0] == sizes[1] == sizes[2]
    assert [page.locator(one).evaluate("e => e.naturalWidth") for one in ("#image", "#heat")] == [60, 60]


def test_the_slider_and_the_outlines_obey_the_keyboard(page):
    give(page, ("part.png", encoded(spotted())))
    expect(page, "#verdict").to_have_text("NG")
    page.focus("#opacity")
    page.keyboard.press("Home")
    expect(page, "#heat").to_have_css("opacity", "0")
    page.keyboard.press("End")
    expect(page, "#heat").to_have_css("opacity", "1")
    page.focus("#show-outlines")
    page.keyboard.press("Space")
    assert page.locator("#outlines").is_hidden()
    page.keyboard.press("Space")
    page.focus("#regions tbody button")
    page.keyboard.press("Enter")
    expect(page, "#outlines path.line").to_have_class(re.compile("chosen"))
    expect(page, "#regions tbody button").to_have_attribute("aria-pressed", "true")


def test_several_images_are_kept_and_shown_again(page):
    give(page, ("bad.png", encoded(spotted())), ("good.png", encoded(spotted(90))))
    expect(page, "#state").to_have_text("2 images inspected.")
    assert page.locator("#strip button").all_inner_texts() == ["OK\ngood.png", "NG\nbad.png"]
    page.locator("#strip button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page, "#verdict").to_have_text("NG")
    expect(page, "#strip button[aria-current=true]").to_have_text("NGbad.png")


def test_a_request_that_the_network_drops_is_made_once_more(page):
    page.route("**/v1/inspect*", lambda route: route.abort("connectionreset"), times=1)
    give(page, ("bad.png", encoded(spotted())), ("good.png", encoded(spotted(90))))
    expect(page, "#state").to_have_text("2 images inspected.")
    page.route("**/v1/inspect*", lambda route: route.abort("connectionrefused"))
    give(page, ("bad.png", encoded(spotted())))
    expect(page, "#trouble").to_have_text("bad.png: the service does not answer.")


def test_an_image_given_before_the_models_are_known_waits_for_them(browser, service):
    models = Held("**/v1/models")
    with opened(browser, service, before=models.hold) as page:
        give(page, ("bad.png", encoded(spotted())), ("good.png", encoded(spotted(90))))
        expect(page, "#state").to_contain_text("Inspecting bad.png (1 of 2)")
        page.wait_for_timeout(300)  # long enough for the image to be asked for without a model
        assert service.service.recent.after(0) == []
        models.let_go(page)
        expect(page, "#state").to_have_text("2 images inspected.")
        assert page.locator("#trouble").is_hidden()


def test_models_that_could_not_be_asked_for_are_asked_for_again(browser, service):
    def drop(page):
        page.route("**/v1/models", lambda route: route.abort("connectionrefused"))

    with opened(browser, service, before=drop) as page:
        give(page, ("bad.png", encoded(spotted())))
        expect(page, "#trouble").to_have_text("bad.png: the service does not answer.")
        page.unroute("**/v1/models")
        give(page, ("bad.png", encoded(spotted())))
        expect(page, "#state").to_have_text("1 image inspected.")


def test_a_page_that_was_opened_too_early_finds_the_service_by_itself(browser, service):
    def drop(page):
        page.route("**/v1/models", lambda route: route.abort("connectionrefused"))

    with opened(browser, service, before=drop) as page:
        expect(page, "#trouble").to_have_text("The service does not answer.")
        page.unroute("**/v1/models")
        expect(page, "#promise").to_contain_text("Of 100 good parts about 1 will be called defective")
        assert page.locator("#trouble").is_hidden()


def test_a_broken_image_says_why_and_the_next_one_is_inspected(page):
    give(page, ("cut.png", encoded(spotted())[:80]), ("good.png", encoded(spotted(90))))
    expect(page, "#trouble").to_contain_text("cut.png: truncated")
    expect(page, "#verdict").to_have_text("OK")


def test_a_file_that_browsers_do_not_show_is_drawn_by_the_service(page):
    give(page, ("part.tif", encoded(spotted(), "TIFF")))
    expect(page, "#verdict").to_have_text("NG")
    assert page.locator("#heat").is_hidden()
    assert page.locator("#image").evaluate("e => e.decode().then(() => e.naturalWidth)") == 60
    assert "Browsers don't show" in page.locator("#times").inner_text()


def test_dropped_images_are_inspected(page):
    data = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
             data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"})); return data; }""",
        list(encoded(spotted())),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(page, "#name").to_contain_text("dropped.png")


def test_the_camera(page):
    page.click("#camera-on")
    expect(page, "#video").to_have_js_property("readyState", 4)  # frames come
    expect(page, "#shoot").to_be_focused()
    page.keyboard.press("Enter")
    expect(page, "#verdict").to_have_text(re.compile("OK|NG"))
    assert page.locator("#name").inner_text().startswith("camera ")
    page.click("#camera-off")
    assert page.locator("#camera").is_hidden()
    assert page.evaluate("state.stream") is None


def test_a_camera_that_is_asked_for_twice_is_opened_once(page):
    page.evaluate(
        """() => { const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
             window.streams = [];
             devices.getUserMedia = async what => { const one = await open(what); streams.push(one); return one; }; }"""
    )
    page.evaluate("Promise.all([openCamera(), openCamera()])")
    expect(page, "#video").to_have_js_property("readyState", 4)
    page.click("#camera-off")
    assert page.evaluate("streams.map(one => one.active)") == [False, False]


def test_images_that_are_not_shown_do_not_stay_in_memory(page):
    page.evaluate(
        """() => { const { createObjectURL, revokeObjectURL } = URL;
             window.kept = new Set();
             URL.createObjectURL = what => { const url = createObjectURL(what); kept.add(url); return url; };
             URL.revokeObjectURL = url => { kept.delete(url); revokeObjectURL(url); }; }"""
    )
    give(page, ("cut.png", encoded(spotted())[:80]), ("part.tif", encoded(spotted(), "TIFF")))
    expect(page, "#state").to_have_text("1 image inspected.")
    assert page.evaluate("kept.size") == 0
    give(page, ("good.png", encoded(spotted(90))))
    expect(page, "#verdict").to_have_text("OK")
    assert page.evaluate("kept.size") == 1


def test_decisions_of_others_appear_in_the_list(page, service):
    expect(page, "#counts").to_have_text("None yet.")
    service.post("/v1/inspect", files=[("image", ("<b>elsewhere</b>.png", encoded(spotted())))])
    service.post("/v1/inspect", encoded(spotted(90)))
    page.evaluate("poll()")
    expect(page, "#counts").to_have_text("Of the last 2: 1 OK, 1 NG.")
    rows = page.locator("#last tbody tr")
    assert rows.nth(0).locator("td").nth(1).inner_text() == "OK"
    assert rows.nth(1).locator("td").nth(3).inner_text() == "<b>elsewhere</b>.png"


def test_the_threshold_stands_with_its_promise(page):
    expect(page, "#promise").to_have_text(
        "Of 100 good parts about 1 will be called defective (95 %: 0 to 4). The threshold is 0.5: a higher score is NG."
    )
    assert page.locator("#rests li").all_inner_texts() == ["8 normals."]


def test_a_full_queue_is_waited_for(page, service):
    service.service.queue.take(service.service.queue.capacity)
    give(page, ("part.png", encoded(spotted())))
    expect(page, "#state").to_contain_text("busy")
    service.service.queue.give(service.service.queue.capacity)
    expect(page, "#verdict").to_have_text("NG")


def test_a_token_is_asked_for_and_a_model_is_chosen(browser, tmp_path):
    with serving(tmp_path, ("left", "right"), token=TOKEN) as service, opened(browser, service) as page:
        expect(page, "#ask").to_be_visible()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page, "#ask-why").to_contain_text("not the right one")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.select_option("#model", "right")
        give(page, ("part.png", encoded(spotted())))
        expect(page, "#verdict").to_have_text("NG")
        assert service.service.recent.after(0)[0]["model"] == "right"


def test_a_refusal_that_comes_late_asks_for_no_second_token(browser, tmp_path):
    models = Held("**/v1/models")
    with (
        serving(tmp_path, token=TOKEN) as service,
        opened(browser, service, before=models.hold) as page,
    ):
        page.evaluate("() => { ask('v1/decisions'); }")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page, "#ask").to_be_hidden()
        models.let_go(page)  # they were sent without a token
        expect(page, "#promise").to_contain_text("Of 100 good parts")
        expect(page, "#drift").to_contain_text("toy:")
        assert page.locator("#ask").is_hidden()


def test_the_escape_key_takes_no_question_for_the_token_away(browser, tmp_path):
    with serving(tmp_path, token=TOKEN) as service, opened(browser, service) as page:
        expect(page, "#ask").to_be_visible()
        page.evaluate("$('ask').addEventListener('close', () => { window.seen = true; })")
        for _ in range(3):
            page.keyboard.press("Escape")
        page.wait_for_function("() => window.seen")  # Chromium lets nobody keep a dialog open against a second Escape
        expect(page, "#ask").to_be_visible()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page, "#promise").to_contain_text("Of 100 good parts")
        expect(page, "#ask").to_be_hidden()


def test_every_control_has_a_name(page):
    page.click("#camera-on")
    give(page, ("part.png", encoded(spotted())))
    expect(page, "#verdict").to_have_text("NG")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input")].filter(e =>
             !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.id)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_reads_in_either_scheme(browser, service, scheme):
    with opened(browser, service, color_scheme=scheme, viewport={"width": 390, "height": 844}) as page:
        give(page, ("part.png", encoded(spotted())), ("a_long_name_without_any_space_in_it" * 3, encoded(spotted())))
        expect(page, "#state").to_have_text("2 images inspected.")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        verdict, image = (page.locator(one).bounding_box()["y"] for one in ("#verdict", "#image"))
        assert verdict < image, "on a phone the verdict comes first"
        colours = page.evaluate(
            """() => { const style = getComputedStyle(document.documentElement);
                 return ["--text", "--quiet", "--ok", "--ng", "--review", "--invalid"].map(name =>
                   ["--page", name].map(one => style.getPropertyValue(one).trim())) }"""
        )
        assert all(contrast(*pair) >= 4.5 for pair in colours)  # WCAG 2.2, criterion 1.4.3


def contrast(one, other):
    """Contrast ratio of two #rrggbb colours, by WCAG 2.2."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
