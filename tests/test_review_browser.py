"""The review tab in headless Chromium: found, seen at large, marked by keys, taken back, saved; two at once."""

import csv
import re
from datetime import UTC, datetime, timedelta

import pytest
from browsers import NEEDED, Held
from reviewed import new
from served import TOKEN, encoded, serving, spotted
from test_service_browser import contrast, expect, opened

pytestmark = NEEDED
LEVELS = (255, 90, 200, 10)  # NG, OK, NG, OK
READ = "one that may only look"


@pytest.fixture
def service(tmp_path):
    with serving(tmp_path, marks="auto", keep="all") as it:
        for number, level in enumerate(LEVELS):
            give(it, f"lot 7/{number}.png", level)
        yield it


def give(service, name, level=255, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    files = [("image", (name, encoded(spotted(level))))]
    assert service.post("/v1/inspect", files=files, headers=headers).status_code == 200


@pytest.fixture
def page(browser, service):
    with opened(browser, service) as page:
        reviewing(page)
        yield page


def reviewing(page, who="Ann"):
    page.click("#tabs a[href='#review']")
    expect(page, "#grid li").not_to_have_count(0)
    if who:
        page.fill("#who", who)
        page.locator("#who").blur()


def at_large(page, place=0):
    page.locator("#grid li button").nth(place).click()
    expect(page, "#large-original").to_be_visible()


def names(page):
    return page.locator("#grid .name").all_text_contents()  # cards out of sight are not laid out


def marks(service):
    known = service.service.reviewing.store
    return [known.decision(number).mark for number in range(1, len(LEVELS) + 1)]


def test_a_decision_is_seen_at_large_with_its_heatmap_and_regions(page, service):
    assert names(page) == ["3.png", "2.png", "1.png", "0.png"]
    assert page.locator("#grid b").all_inner_texts() == ["OK", "NG", "OK", "NG"]
    expect(page, "#tally").to_have_text("4 decisions: 2 NG, 0 REVIEW, 2 OK, 0 INVALID. Marked: 0.")
    at_large(page, 3)
    known = service.service.reviewing.store.decision(1)
    expect(page, "#large-verdict").to_have_text("NG")
    assert "lot 7/0.png, 60 \u00d7 40 pixels" in page.locator("#large-name").inner_text()
    box = page.locator("#large-outlines path.line").evaluate(
        "e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] }"
    )
    assert box == known.regions[0]["box"]
    expect(page, "#large-heat").to_be_visible()
    sizes = [page.locator(f"#large-{one}").bounding_box() for one in ("original", "heat", "outlines")]
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0]["width"] / sizes[0]["height"] == pytest.approx(1.5, rel=0.01)
    page.keyboard.press("h")
    expect(page, "#large-heat").to_have_css("opacity", "0")
    page.keyboard.press("o")
    expect(page, "#large-outlines").to_be_hidden()
    with page.expect_download() as saved:
        page.click("#save-original")
    assert saved.value.path().read_bytes() == encoded(spotted())


def test_an_image_that_is_ready_late_is_not_shown_as_the_next_ones(page):
    slow = """['original', 'heat'].forEach(one => {
        $(`large-${one}`).decode = () => new Promise(done => { (window.ready ??= []).push(done); });
    })"""
    page.evaluate(slow)
    page.locator("#grid li button").first.click()
    page.wait_for_function("() => window.ready?.length === 2")
    images = Held("**/shown")
    images.hold(page)
    page.keyboard.press("ArrowRight")
    expect(page, "#large-name").to_contain_text("2.png")
    page.evaluate(
        "{ ready.forEach(done => done()); for (const one of ['original', 'heat']) delete $(`large-${one}`).decode; }"
    )
    assert page.locator("#large-original").is_hidden()
    images.let_go(page)
    expect(page, "#large-original").to_be_visible()
    assert page.locator("#large-original").get_attribute("alt") == "lot 7/2.png: NG"


def test_keys_mark_go_on_and_take_back(page, service):
    at_large(page)
    page.keyboard.press("r")  # an OK that is right; goes on
    expect(page, "#large-name").to_contain_text("2.png")
    page.keyboard.press("f")
    expect(page, "#large-name").to_contain_text("1.png")
    page.keyboard.press("f")  # an OK is no alarm
    expect(page, "#large-trouble").to_contain_text("False alarm does not fit OK")
    page.keyboard.press("m")
    expect(page, "#large-name").to_contain_text("0.png")
    page.keyboard.press("n")
    expect(page, "#large-state").to_have_text("This was the last of these decisions.")
    assert marks(service) == ["not_a_part", "missed_defect", "false_alarm", "right"]
    page.keyboard.press("u")
    expect(page, "#large-state").to_have_text("Taken back. Decision 1: no mark.")
    page.keyboard.press("ArrowLeft")
    expect(page, "#large-name").to_contain_text("1.png")
    expect(page, "#marks [data-mark=missed_defect]").to_have_attribute("aria-pressed", "true")
    expect(page, "#history li").to_have_text(re.compile("^Missed defect by Ann, "))
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(page, "#large-state").to_have_text("Taken back. Decision 3: no mark.")
    assert marks(service) == [None, None, None, "right"]
    page.keyboard.press("Escape")
    expect(page, "#large").to_be_hidden()
    assert page.locator("#grid .badge").all_inner_texts() == ["\u2713 right"[2:], "", "", ""]
    expect(page, "#grid li >> nth=1 >> button").to_be_focused()  # decision 3: the focus is where the eye was


def test_what_is_taken_back_is_the_mark_that_was_set_last_however_slow_the_service_is(page, service):
    at_large(page)
    page.keyboard.press("n")
    expect(page, "#large-name").to_contain_text("2.png")
    answers = Held("**/marks")
    answers.hold(page)
    page.keyboard.press("r")
    page.keyboard.press("u")  # before the service has said that it has the mark
    answers.let_go(page)
    expect(page, "#large-state").to_have_text("Taken back. Decision 3: no mark.")
    assert marks(service) == [None, None, None, "not_a_part"]
    assert [entry.mark for entry in service.service.reviewing.store.history(3)] == ["right", None]


def test_the_choice_of_a_model_is_there_however_late_the_models_are_known(browser, tmp_path):
    models = Held("**/v1/models")
    with (
        serving(tmp_path, ("left", "right"), marks="auto", keep="all") as service,
        opened(browser, service, before=models.hold) as page,
    ):
        page.click("#tabs a[href='#review']")
        expect(page, "#tally").to_contain_text("0 decisions")
        models.let_go(page)
        expect(page, "#filter-model option").to_have_text(["all", "left", "right"])
        expect(page, "#filter-model").to_be_visible()


def test_an_answer_that_comes_late_takes_no_mark_away(page):
    page.evaluate("learn(review.items[0], { mark: 'right', mark_id: 7 })")
    page.evaluate("learn(review.items[0], { mark: null, mark_id: null })")  # asked for before the mark was set
    expect(page, "#grid .badge >> nth=0").to_have_text("right")
    page.evaluate("learn(review.items[0], { mark: null, mark_id: 8 })")  # taken back by somebody
    assert page.locator("#grid .badge").first.text_content() == ""


def test_keys_work_in_the_grid(page, service):
    page.locator("#grid li button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    expect(page, "#review-state").to_have_text("Decision 3: false alarm.")
    page.keyboard.press("m")  # the focus has gone on
    expect(page, "#review-state").to_have_text("Decision 2: missed defect.")
    page.keyboard.press("u")
    expect(page, "#review-state").to_have_text("Taken back. Decision 2: no mark.")
    assert marks(service) == [None, None, "false_alarm", None]


def test_no_mark_without_a_name(page, service):
    page.fill("#who", "")
    at_large(page)
    page.keyboard.press("r")
    expect(page, "#review-trouble").to_contain_text("Enter your name first")
    assert page.evaluate("document.activeElement.id") == "who"
    assert marks(service) == [None] * 4
    page.keyboard.type("Bob")
    page.keyboard.press("Tab")
    page.reload()
    assert page.input_value("#who") == "Bob"


def test_filters_show_what_they_say(page, service):
    page.check("[value=NG]")
    expect(page, "#grid li").to_have_count(2)
    assert names(page) == ["2.png", "0.png"]
    page.fill("[name=lowest]", "0.9")
    expect(page, "#grid li").to_have_count(1)
    page.click("[type=reset]")
    expect(page, "#grid li").to_have_count(4)
    page.select_option("[name=order]", "lowest")
    expect(page, "#grid .name").to_have_text(["3.png", "1.png", "2.png", "0.png"])
    service.service.reviewing.store.mark(2, "right", "Bob")
    page.select_option("[name=mark]", "right")
    expect(page, "#grid li").to_have_count(1)
    page.select_option("[name=mark]", "missed_defect")
    expect(page, "#nothing").to_be_visible()
    page.click("[type=reset]")
    expect(page, "#grid li").to_have_count(4)
    page.select_option("[name=span]", "own")
    soon = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    page.fill("[name=since]", soon)
    expect(page, "#nothing").to_be_visible()
    page.fill("[name=since]", "")
    page.fill("[name=until]", soon)
    expect(page, "#grid li").to_have_count(4)
    both = """() => {
        document.querySelector("[type=reset]").click();
        const span = document.querySelector("[name=span]");
        span.value = "own";
        span.dispatchEvent(new Event("input", { bubbles: true }));
        return new Promise(done => setTimeout(done, 50));
    }"""
    page.evaluate(both)  # a choice right after a reset stays
    expect(page, "[name=since]").to_be_visible()


def test_zoom_by_keys_wheel_and_dragging(page):
    def width():
        return page.locator("#large-original").bounding_box()["width"]

    at_large(page)
    fitting = width()
    page.keyboard.press("+")
    assert width() == pytest.approx(1.5 * fitting)
    page.mouse.move(200, 300)
    page.mouse.wheel(0, -500)
    page.wait_for_function("() => zoom.scale > 3")
    before = page.evaluate("[zoom.x, zoom.y]")
    page.mouse.down()
    page.mouse.move(170, 280)
    page.mouse.up()
    assert page.evaluate("[zoom.x, zoom.y]") == pytest.approx([before[0] - 30, before[1] - 20])
    page.keyboard.press("0")
    assert width() == pytest.approx(fitting)
    page.keyboard.press("-")
    assert width() == pytest.approx(fitting), "never smaller than its frame"


def test_marks_of_another_reviewer_are_seen_and_never_overwritten_unseen(page, service, browser):
    with opened(browser, service) as other:
        reviewing(other, "Bob")
        at_large(other, 1)
        at_large(page, 1)
        other.keyboard.press("f")
        expect(other, "#large-state").to_have_text("Decision 3: false alarm.")
        page.keyboard.press("r")
        expect(page, "#large-trouble").to_contain_text("Bob marked it false_alarm in the meantime")
        expect(page, "#history li").to_have_text(re.compile("False alarm by Bob"))
        assert marks(service)[2] == "false_alarm"
        page.keyboard.press("r")  # seen, and changed
        expect(page, "#large-name").to_contain_text("1.png")
        assert marks(service)[2] == "right"
        other.keyboard.press("u")
        expect(other, "#large-trouble").to_contain_text("Ann marked it right in the meantime")
        other.keyboard.press("Escape")
        service.service.reviewing.store.mark(1, "right", "Eve")
        other.evaluate("refresh()")
        expect(other, "#grid .badge >> nth=3").to_have_text("right")


def test_new_decisions_are_offered(page, service):
    page.wait_for_function("() => state.started")  # what was decided before is known
    give(service, "fresh.png")
    page.evaluate("poll()")
    expect(page, "#newer").to_have_text("1 new decision: show")
    page.click("#newer")
    expect(page, "#grid .name >> nth=0").to_have_text("fresh.png")
    expect(page, "#newer").to_be_hidden()


def test_many_decisions_come_page_by_page(browser, tmp_path):
    with serving(tmp_path, marks="auto", keep="none") as service:
        for number in range(130):
            service.service.reviewing.store.record(new(number, verdict="OK"))
        with opened(browser, service, viewport={"width": 1280, "height": 300}) as page:
            reviewing(page)
            expect(page, "#grid li").to_have_count(60)
            page.locator("#more").scroll_into_view_if_needed()
            expect(page, "#grid li").to_have_count(120)
            page.locator("#more").scroll_into_view_if_needed()
            expect(page, "#grid li").to_have_count(130)
            assert names(page) == [f"{number}.png" for number in range(129, -1, -1)]
            assert page.locator("#grid .thumb").first.text_content() == "image not kept"
            page.locator("#grid li button").nth(129).click()
            expect(page, "#no-image").to_have_text("The image of this decision was not kept.")
            expect(page, "#after").to_be_disabled()
            page.keyboard.press("r")
            expect(page, "#large-state").to_contain_text("This was the last")


def test_what_is_saved_is_what_was_marked(page, service):
    page.locator("#grid li button").nth(3).focus()
    page.keyboard.press("r")
    expect(page, "#review-state").to_have_text("Decision 1: right.")
    with page.expect_download() as saved:
        page.click("#get-marks")
    with saved.value.path().open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["mark"], row["who"], row["name"]) == ("1", "right", "Ann", "lot 7/0.png")
    with page.expect_download() as saved:
        page.click("#get-manifest")
    assert saved.value.path().read_text().splitlines()[1].endswith("test,bad,defect")


def test_who_may_only_look_gets_no_buttons_to_mark(browser, tmp_path):
    with serving(tmp_path, marks="auto", keep="all", token=TOKEN, read_token=READ) as service:
        give(service, "0.png", token=TOKEN)
        with opened(browser, service) as page:
            page.fill("#token", READ)
            page.keyboard.press("Enter")
            reviewing(page, who=None)
            at_large(page)
            expect(page, "#may-not").to_be_visible()
            expect(page, "#marks").to_be_hidden()
            page.keyboard.press("r")
            assert service.service.reviewing.store.history(1) == ()


def test_a_service_that_keeps_nothing_says_so(browser, tmp_path):
    with serving(tmp_path) as service, opened(browser, service) as page:
        page.click("#tabs a[href='#review']")
        expect(page, "#review-why").to_contain_text("This service keeps no decisions")
        expect(page, "#review-on").to_be_hidden()


def test_a_model_that_was_exchanged_is_noticed(page, service):
    before = service.service.models.get("toy").id
    service.service.models.get("toy").path.write_text("trained again")
    service.service.reload("toy")
    page.evaluate("poll()")
    now = service.service.models.get("toy").id
    expect(page, "#exchanged").to_contain_text(f"version {now} since")
    expect(page, "#exchanged").to_contain_text(f"{before} before")
    expect(page, "#what").to_contain_text(now)


def test_every_control_has_a_name(page):
    at_large(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a")].filter(e =>
             !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.id || e.name)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_reads_in_either_scheme(browser, service, scheme):
    with opened(browser, service, color_scheme=scheme, viewport={"width": 390, "height": 844}) as page:
        reviewing(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        expect(page, "#filters").to_be_hidden()
        page.click("#filter-part summary")
        expect(page, "#filters").to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        at_large(page)
        image, verdict, button = (
            page.locator(one).bounding_box() for one in ("#large-image", "#large-verdict", "#marks button >> nth=3")
        )
        assert image["y"] + image["height"] <= verdict["y"]
        assert button["y"] + button["height"] <= 844, "image and marks on one screen"
        assert button["height"] >= 44, "large enough for a thumb"
        colours = page.evaluate(
            """() => { const style = getComputedStyle(document.documentElement);
                 return ["--text", "--quiet", "--ok", "--ng", "--review", "--invalid"].map(name =>
                   ["--panel", name].map(one => style.getPropertyValue(one).trim())) }"""
        )
        assert all(contrast(*pair) >= 4.5 for pair in colours)  # WCAG 2.2, criterion 1.4.3
