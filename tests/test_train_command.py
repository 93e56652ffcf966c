"""What the train command leaves behind, as the contract of the run folder says."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from toy import COUNTS, DEFECTS, HEIGHT, WIDTH, command, flat

IMAGE = {
    "precision", "recall", "f1", "accuracy", "auroc", "average_precision", "false_alarm_rate", "miss_rate",
    "f1_floor", "f1_oracle", "confusion", "ci95",
}  # fmt: skip
PIXEL = {"auroc", "average_precision", "aupro", "f1", "iou", "threshold"}


@pytest.fixture(scope="module")
def metrics(run_folder):
    return json.loads((run_folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def run_json(run_folder):
    return json.loads((run_folder / "run.json").read_text())


@pytest.fixture(scope="module")
def predictions(run_folder):
    with (run_folder / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_run_leaves_its_files_where_the_names_say(run_folder):
    left = {path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*") if path.is_file()}
    wanted = {".hydra/config.yaml", ".hydra/overrides.yaml", "run.json", "metrics.json", "predictions.csv"}
    assert wanted | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= left
    assert any(name.startswith("tensorboard/events") for name in left)
    assert not [name for name in left if name.endswith(".part")]
    category, names, stamp = run_folder.parts[-3:]
    assert (category, names) == ("widget", "autoencoder-tiny")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", stamp)


def test_the_composed_config_is_kept(run_folder, root):
    config = OmegaConf.load(run_folder / ".hydra" / "config.yaml")
    assert config.data.root == str(root)
    assert list(config.data.image_size) == [64, 48]


def test_metrics_have_the_agreed_form(metrics):
    names = {"category", "model", "backbone", "split", "counts", "threshold", "image", "pixel", "by_defect", "timing"}
    assert names | {"peak_memory_mb", "notes", "seed"} <= set(metrics)
    assert (metrics["category"], metrics["model"], metrics["backbone"]) == ("widget", "autoencoder", "tiny")
    assert metrics["split"] == "official"
    assert metrics["counts"] == COUNTS
    assert set(metrics["image"]) >= IMAGE
    assert set(metrics["pixel"]) >= PIXEL
    assert {name: row["n"] for name, row in metrics["by_defect"].items()} == DEFECTS
    assert all(set(row) >= {"n", "recall", "auroc", "pixel_auroc"} for row in metrics["by_defect"].values())
    assert {"total_s", "features_s", "fit_s", "test_s", "latency_ms_p50", "latency_ms_p95"} <= set(metrics["timing"])
    assert all(value > 0 for value in metrics["timing"].values())
    assert metrics["peak_memory_mb"] > 50


def test_the_threshold_says_what_it_is_made_of(metrics):
    threshold = metrics["threshold"]
    assert {"value", "method", "parameters", "normals", "mean", "std"} <= set(threshold)
    assert threshold["normals"] == COUNTS["validation"]
    assert math.isfinite(threshold["value"])
    assert any("normals only" in warning for warning in threshold["warnings"])


def test_predictions_are_one_row_a_test_image_and_agree_with_the_figures(predictions, metrics, root):
    assert list(predictions[0]) == ["path", "label", "defect", "score", "threshold", "decision", "mask"]
    listed = [row["path"] for row in predictions]
    on_disk = {str(path) for path in (root / "widget" / "test").rglob("*.png")}
    assert len(listed) == len(on_disk)
    assert set(listed) == on_disk
    for row in predictions:
        assert row["defect"] in row["path"]
        assert row["label"] == str(int(row["defect"] != "good"))
        assert row["decision"] == str(int(float(row["score"]) > float(row["threshold"])))
        assert float(row["threshold"]) == metrics["threshold"]["value"]
    hits = sum(row["label"] == row["decision"] == "1" for row in predictions)
    assert hits == metrics["image"]["confusion"]["tp"]
    assert sum(metrics["image"]["confusion"].values()) == len(predictions)


def test_every_test_image_has_a_heatmap_of_its_own_size(run_folder, root):
    images = {path.relative_to(root / "widget" / "test") for path in (root / "widget" / "test").rglob("*.png")}
    heatmaps = {path.relative_to(run_folder / "heatmaps") for path in (run_folder / "heatmaps").rglob("*.png")}
    assert heatmaps == images
    with Image.open(run_folder / "heatmaps" / "scratch" / "0.png") as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
        assert drawn.mode == "RGB"


def test_error_maps_are_raw_and_in_the_order_of_the_predictions(run_folder, predictions):
    maps = np.load(run_folder / "error_maps.npy")
    assert maps.shape == (len(predictions), 8, 6)
    assert maps.dtype == np.float32
    assert maps.min() >= 0


def test_run_json_says_what_was_resolved(run_json, root):
    assert run_json["status"] == "finished"
    assert run_json["seed"] == 0
    assert run_json["resolved"]["data"].startswith(str(root))
    assert "as set" in run_json["resolved"]["data"]
    assert re.fullmatch("[0-9a-f]{64}", run_json["resolved"]["weights_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", run_json["dataset_fingerprint"])
    assert run_json["counts"] == COUNTS
    assert run_json["skipped"] == {}
    assert torch.__version__.startswith(run_json["versions"]["torch"])
    assert {"git_commit", "hardware", "wall_s", "command"} <= set(run_json)


def test_the_last_lines_say_figures_and_places(trained):
    _, ran = trained
    assert "Traceback" not in ran.out
    assert "data.root, as set" in flat(ran.out)
    for place in ("checkpoints/best.ckpt", "metrics.json", "predictions.csv", "heatmaps", "tensorboard"):
        assert place in ran.out[ran.out.index("threshold") :], place
    assert "auroc" in ran.out


def test_tensorboard_holds_losses_scores_panels_and_figures(run_folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run_folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "image/auroc", "image/f1"} <= set(tags["scalars"])
    assert len(events.Scalars("val/loss")) >= 2
    assert {"scores/normal", "scores/anomalous"} <= set(tags["histograms"])
    for defect in ("good", *DEFECTS):
        assert sum(tag.startswith(f"heatmaps/{defect}/") for tag in tags["images"]) == 2, defect


def test_the_pooled_split_and_a_run_without_testing(widget, tmp_path):
    given = ("data.split=pooled_80_20", "test=false", "scoring.reduction=top", "threshold=mean_std", "threshold.k=3")
    ran = command("train", *widget, *given, cwd=tmp_path)
    assert ran.code == 0, ran.out
    written = next(tmp_path.glob("outputs/train/widget/*/*/metrics.json"))
    figures = json.loads(written.read_text())
    assert figures["counts"] == {"train": 13, "validation": 3, "test_good": 4, "test_defect": 7}
    assert figures["image"] is None
    assert figures["pixel"] is None
    assert "test=false" in figures["notes"]["image"]
    threshold = figures["threshold"]
    assert threshold["method"] == "mean_std"
    assert math.isclose(threshold["value"], threshold["mean"] + 3 * threshold["std"], rel_tol=1e-5)
