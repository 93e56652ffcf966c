"""Splits, scores, error maps, thresholds and metrics are those of the files in tests/golden.

They fail when a number changes, wanted or not. After a wanted change write the files anew, look at the difference, and
say in the commit why the numbers moved:

    python -m pytest tests/test_golden.py --update-golden && git diff tests/golden
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import BARE, command

GOLDEN = Path(__file__).parent / "golden"
# The number of threads and the processor change the last digits; a metric jumps where a pixel crosses a threshold.
CLOSE = {
    "metrics": {"rel": 0, "abs": 2e-3},
    "scores": {"rel": 1e-4},
    "thresholds": {"rel": 1e-4},
    "maps": {"rel": 1e-4},
}

QUICK = (
    "data.image_size=[96,128]",
    "data.workers=0",
    "features.grid=[12,16]",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "bootstrap=0",
)
LITE = "backbone=efficientnet_lite0"  # its weights come with a package
# What `make demo` ends with in one thread, by processor: a hundred epochs carry the last digits far.
OUTCOMES = ("demo", "demo_avx2")
RECIPES = {
    "autoencoder": (LITE, "model=autoencoder", "localiser.steps=20", "localiser.detector.examples=24"),
    "padim": (LITE, "model=padim"),
    "patchcore": (LITE, "model=patchcore"),
    "pca": (LITE, "model=pca"),
    "pca_pooled_seed_1": (LITE, "model=pca", "data.split=pooled_80_20", "seed=1"),
    "classic": ("backbone=tiny", "experiment=classic"),
}


def split_of(root: Path, name: str, policy: str, seed: int) -> dict[str, list[Path]]:
    """Files of each set of a category in MVNet layout."""
    from anomaly_lightning.data.layouts import read_category
    from anomaly_lightning.data.splits import make_splits

    splits = make_splits(read_category(root, name), policy, seed)
    return {role: [sample.path for sample in getattr(splits, role)] for role in ("train", "validation", "test")}


@pytest.fixture
def same_as_golden(request):
    """Compare blocks of values with tests/golden/<name>.json; with --update-golden, write that file."""

    def compare(name, found):
        file = GOLDEN / f"{name}.json"
        if request.config.getoption("update_golden"):
            file.write_text(json.dumps(found, indent=1) + "\n")
            pytest.skip(f"{file.name} was written, not compared")
        kept = json.loads(file.read_text())
        assert list(found) == list(kept)
        for block, values in kept.items():
            assert list(found[block]) == list(values), f"{block}: other names, or another order"
            assert found[block] == (pytest.approx(values, **CLOSE[block]) if block in CLOSE else values), block

    return compare


@pytest.fixture
def one_thread():
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(place, *overrides):
    """Folder of a finished run of the train command."""
    ran = command("train", *overrides, *BARE, f"hydra.run.dir={place / 'run'}", cwd=place)
    assert ran.code == 0, ran.out
    return place / "run"


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def scores_of(run, root):
    """Score of each test image, by its path below `root`, in the order of predictions.csv."""
    with (run / "predictions.csv").open(newline="") as stream:
        return {Path(row["path"]).relative_to(root).as_posix(): float(row["score"]) for row in csv.DictReader(stream)}


def of_maps(run):
    """Checksums of the error maps (N, h, w): mean, largest value, and values at six places."""
    maps = np.load(run / "error_maps.npy")
    count, height, width = maps.shape
    places = [
        (image, row, column)
        for image in (0, count - 1)
        for row, column in ((0, 0), (height // 2, width // 2), (height - 2, 1))
    ]
    values = {str(place): float(maps[place]) for place in places}
    return {"mean": float(maps.mean(dtype=np.float64)), "max": float(maps.max()), **values}


def test_the_split(root, same_as_golden):
    found = {
        f"{policy}, seed {seed}": {
            role: [path.relative_to(root).as_posix() for path in paths]
            for role, paths in split_of(root, "widget", policy, seed).items()
        }
        for policy in ("official", "pooled_80_20")
        for seed in (0, 1)
    }
    same_as_golden("split", found)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", RECIPES)
def test_scores_maps_and_thresholds(name, root, tmp_path, same_as_golden):
    run = train(tmp_path, *RECIPES[name], *QUICK, "category=custom", "category.name=widget", f"data.root={root}")
    metrics = metrics_of(run)
    found = {
        "counts": metrics["counts"],
        "thresholds": {"image": metrics["threshold"]["value"], "pixel": metrics["pixel"]["threshold"]},
        "metrics": {
            "image auroc": metrics["image"]["auroc"],
            "image f1": metrics["image"]["f1"],
            **{f"pixel {metric}": metrics["pixel"][metric] for metric in ("auroc", "average_precision", "aupro", "f1")},
        },
        "scores": scores_of(run, root / "widget"),
        "maps": of_maps(run),
    }
    same_as_golden(name, found)


def away(name, found):
    """How far the recorded threshold lies from the one that was found."""
    kept = json.loads((GOLDEN / f"{name}.json").read_text())
    return abs(kept["metrics"]["threshold"] - found["metrics"]["threshold"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_metrics_of_make_demo(tmp_path, same_as_golden):
    """The command of the Makefile's `demo`."""
    metrics = metrics_of(train(tmp_path, "data=synthetic", "category=leather", LITE))
    image, pixel = metrics["image"], metrics["pixel"]
    found = {
        "counts": metrics["counts"] | {"calibrated on": metrics["threshold"]["normals"], "regions": pixel["regions"]},
        "confusion": image["confusion"],
        "metrics": {
            "threshold": metrics["threshold"]["value"],
            "pixel threshold": pixel["threshold"],
            **{f"image {name}": image[name] for name in ("auroc", "average_precision", "f1", "f1_oracle", "accuracy")},
            **{
                f"pixel {name}": pixel[name]
                for name in ("auroc", "average_precision", "aupro", "aupro_005", "f1", "iou")
            },
            **{f"recall of {defect}": row["recall"] for defect, row in metrics["by_defect"].items()},
        },
    }
    same_as_golden(min(OUTCOMES, key=lambda name: away(name, found)), found)
