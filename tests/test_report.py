import base64
import html
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_run import (
    AWKWARD,
    HEIGHT,
    WIDTH,
    make_metrics,
    make_results,
    make_run,
    write_history,
    write_predictions,
)
from toy import BARE, SMALL, command, flat

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import templating
from anomaly_lightning.reports.axis import on_axis, score_axis
from anomaly_lightning.reports.page import gallery as drawing
from anomaly_lightning.reports.page import losses, plots, tables, words, write_report
from anomaly_lightning.reports.page.contours import UNITS, box_of, outline_path
from anomaly_lightning.reports.page.rebuild import read_results
from anomaly_lightning.reports.templating import script_json
from anomaly_lightning.reports.tested import resting_on
from anomaly_lightning.runtime.promise import promise
from anomaly_lightning.runtime.transform import ImageTransform

TEMPLATES = Path(templating.__file__).parent / "templates"


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text of everything but scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(f"{tag} {dict(attrs).get('type', '')}".strip())

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data):
        if self._inside:
            self.raw[self._inside[-1]] = self.raw.get(self._inside[-1], "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def script(self):
        return json.loads(self.raw["script application/json"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_history(folder)
    results = make_results(folder / "data")
    metrics = make_metrics(results)
    path = write_report(folder, results, metrics, make_run())
    return folder, results, metrics, path.read_text(encoding="utf-8")


def report(folder: Path, results, metrics=None) -> Page:
    folder.mkdir(exist_ok=True)
    path = write_report(folder, results, metrics or make_metrics(results), make_run())
    return Page(path.read_text(encoding="utf-8"))


# One file, no network, no hole


def test_page_refers_to_nothing_outside(run):
    page = Page(run[3])
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", run[3].replace(page.raw["script application/json"], ""))
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_text_of_others_is_escaped(run):
    page = Page(run[3])
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any(tag in ("b", "i") for tag, _ in page.tags)
    assert "parts <b>" in page.text
    assert "Look at <this> & that." in page.text
    assert "/data/<parts>" in page.text
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert "<i>dent" in options
    names = {image["name"] for image in page.script["images"]}
    assert {f"good/{name}.png" for name in AWKWARD} <= names
    assert "<" not in page.raw["script application/json"]


def test_own_script_and_style_come_through_unharmed(run):
    page = Page(run[3])
    for raw, names in (("script", ("table.js", "report.js")), ("style", ("base.css", "report.css"))):
        for name in names:
            assert (TEMPLATES / name).read_text(encoding="utf-8").strip() in page.raw[raw]
    assert "eval" not in page.raw["script"]
    assert "innerHTML" not in page.raw["script"]


def test_script_json_can_not_end_its_element():
    text = str(script_json({"a": "</script><!--\u2028ü"}))
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text) == {"a": "</script><!--\u2028ü"}


def test_numbers_in_json_are_exact(run):
    _, results, _, source = run
    scores = [image["score"] for image in Page(source).script["images"]]
    assert scores == [float(score) for score in results.scores]


# Numbers


def test_metrics_are_those_of_metrics_json(run):
    _, _, metrics, source = run
    rows = re.findall(r'<tr data-metric="([^"]+)">.*?</tr>', source, re.S)
    assert rows == [*words.IMAGE, *words.PIXEL]
    for block, names in (("image", words.IMAGE), ("pixel", words.PIXEL)):
        for row in tables.metric_rows(metrics[block], names, block, metrics["notes"]):
            head, _, rest = row["name"].partition(".")
            value = metrics[block][head][rest] if rest else metrics[block][head]
            assert row["value"] == (words.DASH if value is None else f"{value:.3f}")
            if value is None:
                assert row["why"]
                continue
            assert f'</th><td class="number" data-value="{row["value"]}">{row["value"]}</td>' in source.replace(
                "\n", ""
            )


def test_decision_in_words(run):
    text = Page(run[3]).text
    assert "Of 100 good parts about 2 will be called defective (95 %: 0 to 7)." in text
    assert "Of 8 defects 5 were found (95 %: " in text
    assert "Of the test set's 8 good parts 1 was called defective" in text


@pytest.mark.parametrize(
    ("rate", "upper", "expected"),
    [
        (0.0, 0.066, "Of 100 good parts probably none will be called defective (95 %: 0 to 7)."),
        (0.002, 0.01, "Of 100 good parts fewer than 1 will be called defective (95 %: 0 to 1)."),
        (None, 1.0, "can't be said from so few normals (95 %: 0 to 100)."),
        (None, None, "not known: no threshold was calibrated."),
    ],
)
def test_promise(rate, upper, expected):
    assert promise({"false_alarm_rate": rate, "false_alarm_upper": upper}).endswith(expected)


def test_cautions_say_where_test_and_validation_disagree():
    metrics = {"threshold": {"false_alarm_upper": 0.1, "warnings": []}, "notes": {}}
    more = {**metrics, "image": {"ci95": {"false_alarm_rate": [0.11, 0.3]}}}
    within = {**metrics, "image": {"ci95": {"false_alarm_rate": [0.09, 0.3]}}}
    assert "more false alarms" in words.cautions(more, {})[0]
    assert words.cautions(within, {}) == []


def test_skipped_images_are_listed(run):
    text = Page(run[3]).text
    assert "can't be read: /data/broken.png (0 bytes)" in text


def test_metrics_without_a_title_are_shown_under_their_own_name():
    block = {
        "auroc": 0.9,
        "new_one": 0.25,
        "at": {"0.01": 0.5},
        "ci95": {"new_one": [0.2, 0.3]},
        "n": 3,
        "threshold": 2.0,
    }
    rows = tables.metric_rows(block, {"auroc": "AUROC", "gone": "Gone"}, "image", {})
    shown = [(row["title"], row["value"], row["interval"]) for row in rows]
    assert shown == [("AUROC", "0.900", ""), ("new one", "0.250", "0.200 to 0.300"), ("at.0.01", "0.500", "")]


def test_what_the_promise_rests_on_and_what_holds_for_the_whole_run(tmp_path):
    results = make_results(tmp_path / "data")
    metrics = make_metrics(results)
    metrics["notes"] |= {"masks": "2 masks <do> not fit their images"}
    promise = {"rests_on": ["Scores of 40 normals.", "They chose the epoch, too."]}
    path = write_report(tmp_path, results, metrics, make_run() | {"card": {"thresholds": {"promise": promise}}})
    page = Page(path.read_text(encoding="utf-8"))
    assert "What this rests on: Scores of 40 normals. They chose the epoch, too." in page.text
    assert "2 masks <do> not fit their images." in page.text
    metrics["threshold"]["rests_on"] = ["An evaluation has no card."]
    assert words.rests_on(metrics, {}) == ["An evaluation has no card."]


# Empty cases


def test_without_results(tmp_path):
    page = report(tmp_path, None)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # that of the tables
    assert "Nothing is known about finding defects: there are no test images." in page.text
    assert "No curves of test images: there are no test images." in page.text
    assert "There is no loss" in page.text
    assert page.text.count("\u2013") == len(words.IMAGE) + len(words.PIXEL)


def test_with_normals_only(tmp_path):
    results = make_results(tmp_path / "data", defects=False)
    page = report(tmp_path / "run", results)
    assert "The test set holds no defects, so nothing is known about finding them." in page.text
    assert "there are no defective test images" in page.text
    assert "no mask has a defect pixel" in page.text
    assert page.script["defects"] == ["good"]


def test_without_masks(tmp_path):
    results = make_results(tmp_path / "data", masks=False)
    page = report(tmp_path / "run", results)
    bad = [image for image in page.script["images"] if image["bad"]]
    assert {image["truth"] for image in bad} == {None}
    assert all(image["image"] for image in bad)


def test_without_calibration(tmp_path):
    results = replace(make_results(tmp_path / "data"), threshold=math.nan, pixel_threshold=math.nan)
    metrics = make_metrics(results, threshold={"value": None, "false_alarm_upper": None})
    page = report(tmp_path / "run", results, metrics)
    assert page.script["threshold"] is None
    assert page.script["start"] == float(results.scores.median())
    assert {image["heat"] for image in page.script["images"]} == {None}
    assert "No threshold was calibrated." in page.text


def test_image_that_has_gone_is_named(tmp_path):
    results = make_results(tmp_path / "data")
    metrics = make_metrics(results)
    results.samples[3].path.unlink()
    entry = report(tmp_path / "run", results, metrics).script["images"][3]
    assert entry["image"] is None
    assert entry["why"] == "there is no such file"
    assert entry["score"] == 1.25


def test_undefined_metric_shows_its_reason():
    rows = tables.metric_rows({"auroc": None}, {"auroc": "AUROC"}, "image", {"image.auroc": "there are no defects"})
    assert (rows[0]["value"], rows[0]["why"]) == ("\u2013", "there are no defects")


# Images


def decoded(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_overlays_share_one_scale_anchored_at_the_pixel_threshold():
    flat = torch.ones(24, 40)
    below, at, above = (np.asarray(drawing._overlay(factor * flat, 2.0)) for factor in (0.2, 2.0, 40.0))
    assert below.shape == (24, 40, 4)
    assert below[0, 0, 3] < 5
    assert at[0, 0, 3] == above[0, 0, 3] == 255
    assert at[0, 0, 1] > 200  # turbo is green in its middle
    assert above[0, 0, 1] < 50  # and dark red at its end


def test_images_keep_their_shape(run):
    for entry in Page(run[3]).script["images"]:
        assert entry["box"] == [UNITS, round(UNITS * HEIGHT / WIDTH)]
        for name in ("image", "heat"):
            width, height = decoded(entry[name]).size
            assert width / height == pytest.approx(WIDTH / HEIGHT, rel=0.03)


def test_two_hundred_images_stay_under_ten_megabytes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 320, 3), dtype=np.uint8))
    monkeypatch.setattr(ImageTransform, "read", lambda *_: noise)  # noise is the worst that can be compressed
    few = make_results(tmp_path / "data", defects=False)
    samples = [few.samples[i % len(few.samples)] for i in range(200)]
    maps = torch.rand(200, 32, 32, generator=torch.Generator().manual_seed(0))
    many = replace(few, samples=samples, scores=torch.linspace(0, 3, 200), error_maps=maps)
    page = write_report(tmp_path, many, make_metrics(few), make_run())
    assert 4_000_000 < page.stat().st_size < 10_000_000


def test_only_the_images_nearest_to_a_mistake_are_drawn_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_IMAGES", 4)
    results = make_results(tmp_path / "data")
    entries = drawing.drawn_images(results, ["x"] * len(results.samples))
    drawn = sorted(entry["score"] for entry in entries if entry["image"])
    assert drawn == [0.75, 1.5, 2.0, 2.5]  # three not found, one false alarm
    assert len(entries) == 16


@pytest.mark.parametrize("size", [(200, 450), (450, 200)])
def test_webp_within_gets_smaller_until_it_fits(size):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    whole = drawing.webp_within(noise, 10**6)
    small = drawing.webp_within(noise, len(whole) // 2)
    assert len(small) <= len(whole) // 2
    assert Image.open(io.BytesIO(whole)).size == noise.size
    assert Image.open(io.BytesIO(small)).size[0] < noise.size[0]


def bounds(path: str) -> tuple[float, float, float, float]:
    """Smallest and largest x and y of all points of a path of M, l and z."""
    points = []
    for start, steps in re.findall(r"M([^l]+)l([^z]*)z", path):
        x, y = map(int, start.split())
        points.append((x, y))
        numbers = list(map(int, steps.split()))
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            points.append((x, y))
    xs, ys = zip(*points, strict=True)
    return min(xs), max(xs), min(ys), max(ys)


def test_outline_of_a_rectangle_is_where_it_is():
    field = np.zeros((HEIGHT, WIDTH))
    field[10:20, 50:70] = 1
    box = box_of((HEIGHT, WIDTH))
    unit = UNITS / WIDTH
    assert bounds(outline_path(field, 0.5, box)) == pytest.approx(
        (50 * unit, 70 * unit, 10 * unit, 20 * unit), abs=unit / 2
    )


def test_outline_is_closed_at_the_edge_and_empty_where_there_is_nothing():
    field = np.zeros((30, 50))
    assert outline_path(field, 0.5, (500, 300)) == ""
    field[:, 40:] = 1
    left, right, top, bottom = bounds(outline_path(field, 0.5, (500, 300)))
    assert (right, top, bottom) == (500, 0, 300)
    assert left == pytest.approx(400, abs=1)


def test_single_defect_pixel_of_a_large_mask_keeps_an_outline(tmp_path):
    mask = np.zeros((1500, 3000), np.uint8)
    mask[700, 2000] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    results = make_results(tmp_path / "data")
    sample = replace(results.samples[-1], mask=tmp_path / "mask.png")
    path = drawing._truth_path(replace(results, samples=[sample]), 0, box_of((1500, 3000)))
    left, right, top, bottom = bounds(path)
    assert left - 2 <= 2000 * UNITS / 3000 <= right + 2
    assert top - 2 <= 700 * UNITS / 3000 <= bottom + 2


# Plots


def test_histogram_counts_every_image(run):
    _, results, _, source = run
    axis = Page(source).script["axis"]
    bars = plots.histogram(results, axis)
    assert sum(bar["count"] for bar in bars["good"]) == int((~results.labels).sum())
    assert sum(bar["count"] for bar in bars["bad"]) == int(results.labels.sum())


@pytest.mark.parametrize(("scores", "log"), [((1.0, 2.0, 3.0), False), ((0.01, 1.0, 5.0), True), ((-1.0, 90.0), False)])
def test_score_axis_holds_all(scores, log):
    axis = score_axis(scores, 1.5)
    assert axis["log"] is log
    places = on_axis(axis, np.array([*scores, 1.5]))
    assert (places > 0).all()
    assert (places < 1).all()


def test_score_axis_of_equal_scores_has_a_width():
    axis = score_axis([0.0, 0.0], None)
    assert axis["low"] < 0 < axis["high"]


def test_bands_hold_the_curve(run):
    curves = plots.score_curves(run[1], True, 0)
    assert curves["roc"]["line"].startswith("M0.00 100.00")
    assert curves["roc"]["line"].endswith("100.00 0.00")
    assert curves["roc"]["band"].endswith("z")
    corners = np.array(re.findall(r"([\d.]+) ([\d.]+)", curves["pro"]["band"]), float)
    assert (corners[0, 0], corners[100, 0], corners[-1, 0]) == (0, 100, 0)
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", curves["pro"]["line"]), float)
    at = np.interp(corners[1:101, 0], points[:, 0], points[:, 1])
    assert (at <= corners[1:101, 1] + 0.4).all()  # the lower edge; y grows downwards
    assert (at >= corners[200:100:-1, 1] - 0.4).all()  # 500 points are drawn of a way of length 2


def test_losses_end_with_the_last_epoch_of_training(run):
    drawn = losses.loss_curves(run[0] / "history" / "metrics.csv")
    assert drawn["epochs"] == 2
    assert drawn["best"] == {"epoch": 2, "value": 0.5}
    assert drawn["lines"]["val"].count("L") == 1


def test_no_losses_without_gradients(tmp_path):
    write_history(tmp_path, rows=())
    assert losses.loss_curves(tmp_path / "history" / "metrics.csv") is None
    assert losses.loss_curves(tmp_path / "none.csv") is None


# From files


def rebuilt(folder: Path, tmp_path: Path) -> tuple[str, str]:
    """The report of a copy of a run's folder, before and after it was made again."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = (copy / "report.html").read_text(encoding="utf-8")
    (copy / "report.html").unlink()
    ran = command("report", f"run={copy}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert str(copy / "report.html") in ran.out
    assert not (tmp_path / "outputs").exists()
    return before, (copy / "report.html").read_text(encoding="utf-8")


def images_of(source: str) -> list[dict]:
    return Page(source).script["images"]


def test_rebuilt_report_is_the_same(run_folder, tmp_path):
    before, after = rebuilt(run_folder, tmp_path)
    assert sum(image["truth"] not in (None, "") for image in images_of(before)) == 7
    assert after == before


def train(tmp_path: Path, root: Path, *more: str) -> Path:
    small = tuple(value for value in SMALL if not value.startswith("model."))
    given = ("model=pca", "category=custom", "category.name=widget", f"data.root={root}")
    ran = command("train", *small, *BARE, *given, *more, cwd=tmp_path)
    assert ran.code == 0, ran.out
    return next(tmp_path.glob("outputs/train/widget/*/*"))


def test_rebuilt_report_of_a_region_shows_nothing_outside_it(root, tmp_path):
    folder = train(tmp_path, root, "data.roi=[[0,0],[0.5,0],[0.5,1],[0,1]]")
    before, after = rebuilt(folder, tmp_path / "again")
    for source in (before, after):
        heats = [np.asarray(decoded(image["heat"]).convert("RGBA")) for image in images_of(source)]
        assert all((heat[:, heat.shape[1] // 2 + 1 :, 3] == 0).all() for heat in heats)
        assert max(heat[..., 3].max() for heat in heats) > 0
    assert after == before


def test_rebuilt_report_of_tiles_keeps_their_masks(root, tmp_path):
    folder = train(tmp_path, root, "data.image_size=48", "data.tile=48", "data.tile_overlap=8")
    before, after = rebuilt(folder, tmp_path / "again")
    assert sum(image["truth"] not in (None, "") for image in images_of(after)) >= 7
    assert after == before


def test_rebuild_says_what_is_missing(tmp_path):
    ran = command("report", f"run={tmp_path}", cwd=tmp_path)
    assert ran.code == 1
    assert "UserError: Expected the folder of a finished run, with a whole metrics.json" in flat(ran.out)
    assert "There is no default for run" in flat(command("report", cwd=tmp_path).out)


def test_rebuild_refuses_predictions_without_masks(tmp_path):
    (tmp_path / "predictions.csv").write_text("path,label,defect,score,threshold,decision\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"predictions\.csv has no column mask: .* Train or evaluate again"):
        read_results(tmp_path, {}, {})


def test_rebuild_refuses_maps_that_do_not_fit(tmp_path):
    results = make_results(tmp_path / "data")
    write_predictions(tmp_path, results)
    np.save(tmp_path / "error_maps.npy", results.error_maps[:3].numpy())
    with pytest.raises(UserError, match=r"each of the 16 rows of predictions\.csv, got 3"):
        read_results(tmp_path, make_metrics(results), {})


def test_nothing_is_escaped_twice(run):
    assert html.unescape(run[3]).count("&amp;") == 0


def test_training_leaves_the_report_of_its_metrics(run_folder):
    page = Page((run_folder / "report.html").read_text(encoding="utf-8"))
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    called = [image["score"] > page.script["threshold"] for image in page.script["images"]]
    assert sum(called) == metrics["image"]["confusion"]["tp"] + metrics["image"]["confusion"]["fp"]
    assert page.script["threshold"] == metrics["threshold"]["value"]
    assert "Lowest validation loss" in page.text
    assert f"{metrics['image']['auroc']:.3f}" in page.text


def test_what_a_promise_rests_on_is_said():
    promise = {"normals": 30, "method": "student_t"}
    assert resting_on(promise) == ", resting on 30 held-out normals by the rule student_t"
    said = resting_on({**promise, "cross_fitted": 24})
    assert said == ", resting on 6 held-out normals and 24 cross-fitted training normals by the rule student_t"
