"""Train, evaluate and predict score the same image alike: one transform, one checkpoint, one way to score."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import BARE, command

import anomaly_lightning
from anomaly_lightning.metrics import PixelMetrics, by_defect, image_metrics
from anomaly_lightning.runtime.decision import MARGIN, exceeds, verdict
from anomaly_lightning.training.checkpoint import read_checkpoint

TOLERANCE = 1e-6


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def scores(file):
    return {row["path"]: float(row["score"]) for row in rows(file)}


@pytest.fixture(scope="module")
def trained_scores(run_folder):
    return scores(run_folder / "predictions.csv")


@pytest.fixture(scope="module")
def evaluated(checkpoint, tmp_path_factory):
    """Folder of an evaluation in a new process, from another folder, with nothing but the checkpoint given."""
    place = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PYTHONPATH": str(Path(anomaly_lightning.__file__).parents[1])}
    arguments = [sys.executable, "-m", "anomaly_lightning.evaluate", f"checkpoint={checkpoint}", "bootstrap=50"]
    done = subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return next(place.glob("outputs/evaluate/*"))


def figures(value, path=""):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from figures(part, f"{path}.{key}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from figures(part, f"{path}.{place}")
    else:
        yield path, value


def test_evaluate_gives_the_figures_that_training_gave(evaluated, run_folder):
    trained, again = (json.loads((folder / "metrics.json").read_text()) for folder in (run_folder, evaluated))
    for block in ("category", "model", "backbone", "split", "counts", "threshold", "image", "pixel", "by_defect"):
        before, after = dict(figures(trained[block])), dict(figures(again[block]))
        assert set(before) == set(after)
        for name, value in before.items():
            if isinstance(value, float):
                assert after[name] == pytest.approx(value, abs=TOLERANCE, rel=TOLERANCE), f"{block}{name}"
            else:
                assert after[name] == value, f"{block}{name}"


def test_evaluate_gives_the_scores_that_training_gave(evaluated, trained_scores):
    again = scores(evaluated / "predictions.csv")
    assert list(again) == list(trained_scores)
    assert again == pytest.approx(trained_scores, rel=TOLERANCE)


def test_evaluate_draws_the_same_heatmaps(evaluated, run_folder):
    images = sorted(path.relative_to(run_folder) for path in run_folder.glob("heatmaps/*/*.png"))
    assert images
    for path in images:
        assert (evaluated / path).read_bytes() == (run_folder / path).read_bytes(), path


@pytest.mark.parametrize("batch_size", [1, 8])
def test_predict_gives_the_scores_that_training_gave(checkpoint, root, trained_scores, tmp_path, batch_size):
    given = (f"checkpoint={checkpoint}", f"input={root}/widget/test", f"output={tmp_path}/out", "device=cpu")
    assert command("predict", *given, f"batch_size={batch_size}", cwd=tmp_path).code == 0
    assert scores(tmp_path / "out" / "decisions.csv") == pytest.approx(trained_scores, rel=TOLERANCE)


def test_predict_decides_as_training_did(checkpoint, root, run_folder, tmp_path):
    given = (f"checkpoint={checkpoint}", f"input={root}/widget/test", f"output={tmp_path}/out", "device=cpu")
    assert command("predict", *given, cwd=tmp_path).code == 0
    trained = {row["path"]: ("OK", "NG")[int(row["decision"])] for row in rows(run_folder / "predictions.csv")}
    assert {row["path"]: row["decision"] for row in rows(tmp_path / "out" / "decisions.csv")} == trained


def test_evaluate_on_another_root_and_with_cache_off_the_beaten_path(checkpoint, root, trained_scores, tmp_path):
    given = (f"checkpoint={checkpoint}", f"data.root={root}", f"cache.dir={tmp_path}/cache", "heatmaps=false")
    ran = command("evaluate", *given, "bootstrap=0", cwd=tmp_path)
    assert ran.code == 0, ran.out
    left = next(tmp_path.glob("outputs/evaluate/*"))
    assert scores(left / "predictions.csv") == pytest.approx(trained_scores, rel=TOLERANCE)
    assert not (left / "heatmaps").exists()


@pytest.mark.parametrize("threshold", [138.5, 3e-4, -2.0])
def test_a_score_within_the_margin_is_ok_everywhere(threshold):
    near, above = (threshold + share * MARGIN * abs(threshold) for share in (0.5, 2.0))
    scores = torch.tensor([near, above], dtype=torch.float64)
    labels = torch.tensor([True, True])
    assert exceeds(scores, threshold).tolist() == [False, True]
    assert (verdict(near, threshold), verdict(above, threshold)) == ("OK", "NG")
    assert (verdict(near, above, threshold), verdict(above, 2 * abs(above), threshold)) == ("OK", "REVIEW")
    image, _ = image_metrics(scores, labels, threshold, bootstrap=0)
    assert image["confusion"] == {"tp": 1, "fp": 0, "tn": 0, "fn": 1}
    assert image["recall"] == 0.5
    assert by_defect(scores, labels, ["spot", "spot"], threshold)[0]["spot"]["recall"] == 0.5
    pixels = PixelMetrics()
    pixels.update(
        torch.tensor([[near, above, threshold - 1]], dtype=torch.float64), torch.tensor([[True, True, False]])
    )
    assert pixels.compute(threshold, bootstrap=20)[0]["iou"] == 0.5


@pytest.mark.parametrize("model", ["autoencoder", "patchcore"])
def test_the_normal_that_gave_the_threshold_is_ok_in_every_batch(model, widget, root, tmp_path):
    given = ("threshold=highest", "test=false", f"hydra.run.dir={tmp_path}/run", *BARE)
    small = [value for value in widget if model == "autoencoder" or not value.startswith("model.")]
    ran = command("train", *small, f"model={model}", *given, cwd=tmp_path)
    assert ran.code == 0, ran.out
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    highest = read_checkpoint(best)[1].thresholds
    assert highest.score == pytest.approx(max(highest.scores))
    for batch in (1, 2, 4, 8, 16):
        out = tmp_path / f"out{batch}"
        called = (f"checkpoint={best}", f"input={root}/widget/train/good", f"output={out}", f"batch_size={batch}")
        assert command("predict", *called, "device=cpu", "validity=false", cwd=tmp_path).code == 0
        found = {float(row["score"]): row["decision"] for row in rows(out / "decisions.csv")}
        nearest = min(found, key=lambda score: abs(score - highest.score))
        assert nearest == pytest.approx(highest.score, rel=MARGIN)
        assert found[nearest] == "OK"
