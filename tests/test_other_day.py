"""evaluate normals=...: promises against good parts from another time, and from which change of light they break."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from toy import card, command, flat, save, texture

from anomaly_lightning.reports.tested import tried
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.upkeep.other_day import breaks, light_shifts
from anomaly_lightning.upkeep.shifts import STEPS, Shift, shifts


def folder_of(place, count, gain, seed=5):
    rng = np.random.default_rng(seed)
    for number in range(count):
        save((gain * texture(rng)).clip(0, 255).astype(np.uint8), place / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def promising(exported, tmp_path_factory):
    """The session's bundle, as if a hundred normals had promised 1 % (95 %: 3 %), and its threshold far above all."""
    from anomaly_lightning.runtime.bundle import read_bundle

    engine = Inspector.load(exported, "cpu").engine
    known = read_bundle(exported).manifest.card
    return engine, known


def inspector(promising, threshold, upper=0.03, **thresholds):
    engine, known = promising
    promise = {"parameters": {"alpha": 0.01}, "false_alarm_rate": 0.01, "false_alarm_upper": upper}
    made = ThresholdsCard(score=threshold, pixel=1.0, promise=promise, **thresholds)
    return Inspector(known.replace(thresholds=made), engine)


def test_files_and_verdicts_of_the_command(exported, root, tmp_path):
    good, bad = folder_of(tmp_path / "good", 6, 1.0), root / "widget" / "test"
    words = (f"checkpoint={exported}", f"normals={good}", f"defects={bad}", "shift_images=1", "hydra.run.dir=out")
    ran = command("evaluate", *words, cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((tmp_path / "out" / "other_day.json").read_text())
    with (tmp_path / "out" / "other_day.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_hand = [exceeds(float(row["score"]), float(row["threshold"])) for row in rows if row["truth"] == "normal"]
    (alarms, invalid) = found["promises"]
    assert (alarms["count"], alarms["total"]) == (sum(by_hand), 6)
    assert alarms["verdict"] in ("too few", "held", "broken")
    assert alarms["words"] in flat(ran.out)
    assert invalid["promise"] == "invalid"
    assert (found["defects"]["total"], len(rows)) == (7, 13)
    assert found["shifts"]["images"] == 1
    assert len(found["shifts"]["steps"]) == 1 + len(shifts())
    page = (tmp_path / "out" / "other_day.html").read_text()
    assert alarms["words"].partition(":")[0] in page
    assert page.count("<figure>") == 6
    assert "http" not in page.replace("http-equiv", "").replace("https://bford.info", "")
    again = command("evaluate", *words, cwd=tmp_path)
    assert again.code == 1
    assert "holds the outputs of an earlier evaluate" in flat(again.out)


def test_contradictory_options_are_refused(exported, root, tmp_path):
    ran = command("evaluate", f"checkpoint={exported}", f"normals={root}", f"data.root={root}", cwd=tmp_path)
    assert ran.code == 1
    assert "normals= and data.root= don't go together" in flat(ran.out)


def test_the_page_of_a_training_says_which_promise_was_tested_by_what(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    alarms, invalid = metrics["promises"]
    assert (alarms["tested_by"], alarms["total"]) == ("good test images", 5)
    assert alarms["count"] == metrics["image"]["confusion"]["fp"]
    assert invalid["tested_by"] is None
    page = (run_folder / "report.html").read_text()
    assert "What became of each promise" in page
    assert "Not tested" in page


def test_the_review_band_is_a_promise_of_its_own():
    transform = ImageTransform((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    promise = {"parameters": {"alpha": 0.01}, "false_alarm_upper": 0.03, "review_share": 0.05}
    known = ThresholdsCard(score=2.0, pixel=1.0, review=1.0, promise=promise, scores=(0.5,) * 100)
    alarms, band = tried(card(transform, thresholds=known), [0.5] * 200 + [1.5] * 60 + [3.0] * 2, None, "good images")
    assert (alarms.found.count, band.found.count) == (2, 60)
    assert (alarms.found.verdict, band.found.verdict) == ("held", "broken")
    assert tried(card(transform, thresholds=None), [1.0], 0, "") == []


def test_light_is_shifted_as_it_says():
    image = Image.fromarray(np.full((40, 60, 3), 100, np.uint8))
    shown = {shift.kind: np.asarray(shift(image))[0, 0].tolist() for shift in map(Shift, STEPS, [0.1] * 4 + [2.0])}
    assert shown["darker"] == [90, 90, 90]
    assert shown["brighter"] == [110, 110, 110]
    assert shown["warmer"] == [110, 100, 90]
    assert shown["cooler"] == [90, 100, 110]
    assert shown["blurred"] == [100, 100, 100]
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8))
    blurred = [np.asarray(Shift("blurred", strength)(sharp)).std() for strength in (10.0, 20.0)]
    assert np.asarray(sharp).std() > blurred[0] > blurred[1]


def test_the_step_that_breaks_a_promise_is_named(promising, tmp_path):
    """Thirty copies, so that one step goes from none to all: the threshold lies between two steps' scores."""
    place = folder_of(tmp_path / "good", 1, 1.0)
    look = inspector(promising, 1e9)
    image = Image.open(place / "0.png").convert("RGB")
    scores = [look(Shift("darker", strength)(image)).score for strength in (0.0, *STEPS["darker"])]
    assert scores[0] < scores[-1]
    between = next(i for i in range(1, 5) if max(scores[:i]) < min(scores[i:]))
    look = inspector(promising, (max(scores[:between]) + min(scores[between:])) / 2)
    steps = list(light_shifts(look, [place / "0.png"] * 8))
    said = breaks(steps)
    assert said["darker"].startswith(f"Broken from {STEPS['darker'][between - 1]:.0%} on (8 of 8)")
    broken = inspector(promising, 0.0)
    assert "without any change" in breaks([*light_shifts(broken, [place / "0.png"] * 8)])["blurred"]
