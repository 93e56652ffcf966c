"""data.tile: tiles cover, blend without seams, train and predict as one; memory is bounded by the image."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from toy import BARE, SMALL, command, save, texture

from anomaly_lightning.calibration import best_f1_threshold
from anomaly_lightning.data.defects import varied_with
from anomaly_lightning.data.layouts import read_category
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.splits import Splits, make_splits
from anomaly_lightning.data.tiling import tiled_splits
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.tiles import Tiling, crop
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.runtime.validity import fit_validity
from anomaly_lightning.training.examples import _real


@pytest.mark.parametrize("size", [(100, 300), (64, 64), (65, 129), (30, 200), (7, 9)])
@pytest.mark.parametrize("overlap", [0, 10, 32])
def test_tiles_cover_every_pixel_and_share_what_was_asked(size, overlap):
    tiling = Tiling((64, 64), overlap)
    covered = np.zeros(size, int)
    boxes = tiling.boxes(size)
    for top, left, height, width in boxes:
        assert (height, width) == (min(64, size[0]), min(64, size[1]))
        assert top + height <= size[0]
        assert left + width <= size[1]
        covered[top : top + height, left : left + width] += 1
    assert covered.min() >= 1
    lefts = sorted({left for _, left, _, _ in boxes})
    assert all(left + 64 - following >= overlap for left, following in pairwise(lefts))


def test_maps_that_agree_blend_into_the_same_map():
    whole = np.random.default_rng(0).random((150, 210), np.float32)
    tiling = Tiling((64, 80), 20)
    parts = (((t, left, h, w), whole[t : t + h, left : left + w]) for t, left, h, w in tiling.boxes((150, 210)))
    np.testing.assert_allclose(tiling.blend(parts, (150, 210)), whole, rtol=1e-6)


def test_maps_that_differ_leave_no_seam():
    tiling = Tiling((64, 64), 32)
    boxes = tiling.boxes((64, 96))
    assert len(boxes) == 2
    blended = tiling.blend(((box, np.full((64, 64), i, np.float32)) for i, box in enumerate(boxes)), (64, 96))
    assert blended[0, 0] == 0
    assert blended[0, 95] == 1
    assert np.diff(blended[0]).max() < 0.05
    assert (np.diff(blended[0]) >= 0).all()


@pytest.mark.parametrize(("tile", "overlap"), [(4, 0), ([64, 64, 64], 0), (64, 40), (64, -1)])
def test_what_is_no_tiling_is_refused(tile, overlap):
    with pytest.raises(DataError, match=r"data\.tile"):
        Tiling.from_config(tile, overlap)


def test_a_image_has_tiles_in_one_set_only_and_its_defect_in_the_tiles_that_show_it(tmp_path):
    rng, samples = np.random.default_rng(0), []
    for number in range(4):
        samples.append(Sample(save(texture(rng, 100, 160), tmp_path / f"{number}.png")))
    mask = np.zeros((100, 160), np.uint8)
    mask[5:15, 5:15] = 255
    bad = Sample(samples[3].path, "spot", save(mask, tmp_path / "m" / "3.png"))
    unmasked = Sample(save(texture(rng, 100, 160), tmp_path / "5.png"), "spot")
    splits = Splits(tuple(samples[:2]), (samples[2],), (bad, unmasked))
    tiling = Tiling((64, 64), 16)
    made, unreadable, unknown = tiled_splits(splits, tiling, tmp_path / "cache")
    count = len(tiling.boxes((100, 160)))
    assert (len(made.train), len(made.validation), len(made.test)) == (2 * count, count, count)
    assert sum(sample.label for sample in made.test) == 1
    assert (unreadable, unknown) == ({}, [unmasked.path])
    first = made.train[0]
    with Image.open(first.path) as tile, Image.open(samples[0].path) as whole:
        assert tile.tobytes() == crop(whole, (0, 0, 64, 64)).tobytes()
    assert images_in(tmp_path / "cache", recursive=True) == []  # a cache is no data
    again, _, _ = tiled_splits(splits, tiling, tmp_path / "cache")
    assert again == made


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tiled"), np.random.default_rng(1)
    for number in range(6):
        save(texture(rng, 120, 200), folder / "data" / "widget" / "train" / "good" / f"{number}.png")
    for number in range(2):
        save(texture(rng, 120, 200), folder / "data" / "widget" / "test" / "good" / f"{number}.png")
        values, mask = texture(rng, 120, 200), np.zeros((120, 200), np.uint8)
        values[80:92, 150:162], mask[80:92, 150:162] = (250, 20, 20), 255
        save(values, folder / "data" / "widget" / "test" / "spot" / f"{number}.png")
        save(mask, folder / "data" / "widget" / "ground_truth" / "spot" / f"{number}_mask.png")
    small = tuple(value for value in SMALL if not value.startswith(("model.", "data.image_size")))
    given = ("model=pca", "data.image_size=64", "data.tile=64", "data.tile_overlap=16", "scoring.sigma=1")
    where = ("category=custom", "category.name=widget", f"data.root={folder / 'data'}")
    ran = command("train", *small, *BARE, *given, *where, cwd=folder)
    assert ran.code == 0, ran.out
    return folder, next(folder.glob("outputs/train/widget/*/*"))


def test_train_and_evaluate_on_tiles_agree(tiled, tmp_path):
    _, run = tiled
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["counts"]["train"] == 4 * 12
    assert figures["image"]["auroc"] == 1.0
    checkpoint = run / "checkpoints" / "best.ckpt"
    ran = command("evaluate", f"checkpoint={checkpoint}", "bootstrap=0", "heatmaps=false", cwd=tmp_path)
    assert ran.code == 0, ran.out
    again = json.loads(next(tmp_path.glob("outputs/evaluate/*/metrics.json")).read_text())
    assert again["counts"] == figures["counts"]
    assert again["pixel"]["auroc"] == pytest.approx(figures["pixel"]["auroc"], abs=1e-3)


def test_predict_scores_whole_images_by_their_strangest_tile(tiled, tmp_path):
    folder, run = tiled
    inputs, checkpoint = folder / "data" / "widget" / "test", run / "checkpoints" / "best.ckpt"
    ran = command("predict", f"checkpoint={checkpoint}", f"input={inputs}", f"output={tmp_path}/out", cwd=tmp_path)
    assert ran.code == 0, ran.out
    with Image.open(tmp_path / "out" / "heatmaps" / "spot" / "0.png") as drawn:
        assert drawn.size == (200, 120)
    inspector = Inspector.load(checkpoint, "cpu")
    with Image.open(inputs / "spot" / "1.png") as image:
        said = inspector(image)
    row, column = divmod(int(said.anomaly_map.argmax()), 200)
    assert 78 <= row < 94
    assert 148 <= column < 164
    assert said.verdict == "NG"
    assert said.anomaly_map.shape == (120, 200)


def test_the_looks_of_good_parts_are_learnt_from_no_image_that_is_tested_on(tmp_path):
    rng, data = np.random.default_rng(2), tmp_path / "data"
    for place, count in (("train/good", 12), ("test/good", 8)):
        for number in range(count):
            save(texture(rng, 120, 200), data / "widget" / place / f"{number}.png")
    splits = make_splits(read_category(data, "widget"), "pooled_80_20", seed=0)
    assert any(sample.path.parent.parent.name == "train" for sample in splits.test)  # official normals, tested on here
    damaged = splits.train[0].path
    damaged.write_bytes(damaged.read_bytes()[:200])
    small = tuple(value for value in SMALL if not value.startswith(("model.", "data.image_size")))
    given = ("model=pca", "data.image_size=64", "data.tile=64", "data.split=pooled_80_20", "data.on_corrupt=skip")
    where = ("category=custom", "category.name=widget", f"data.root={data}", "test=false")
    ran = command("train", *small, *BARE, *given, *where, cwd=tmp_path)
    assert ran.code == 0, ran.out
    card = Inspector.load(next(tmp_path.glob("outputs/train/widget/*/*/checkpoints/best.ckpt")), "cpu").card
    known = fit_validity([sample.path for sample in splits.normals if sample.path != damaged])
    assert card.validity == known.card()
    assert card.drift is not None


def test_labelled_defects_are_scored_tile_by_tile_as_they_will_be(tiled, tmp_path):
    folder, _ = tiled
    rng = np.random.default_rng(3)
    for number in range(3):
        values = texture(rng, 120, 200)
        values[20:32, 50:62] = (250, 20, 20)
        save(values, tmp_path / "labelled" / f"{number}.png")
    small = tuple(value for value in SMALL if not value.startswith(("model.", "data.image_size")))
    given = ("model=pca", "data.image_size=64", "data.tile=64", "data.tile_overlap=16", "scoring.sigma=1")
    where = ("category=custom", "category.name=widget", f"data.root={folder / 'data'}", "test=false")
    f1 = ("threshold=f1", f"labelled_defects={tmp_path / 'labelled'}")
    ran = command("train", *small, *BARE, *given, *where, *f1, cwd=tmp_path)
    assert ran.code == 0, ran.out
    inspector = Inspector.load(next(tmp_path.glob("outputs/train/widget/*/*/checkpoints/best.ckpt")), "cpu")
    normals = inspector.thresholds.scores
    defects = [said.score for said in inspector(images_in(tmp_path / "labelled"))]
    wanted = best_f1_threshold([*normals, *defects], [False] * len(normals) + [True] * len(defects))
    assert inspector.thresholds.score == pytest.approx(wanted, rel=1e-4)


def test_labelled_defects_are_learned_from_tile_by_tile(tmp_path):
    rng, mask = np.random.default_rng(4), np.zeros((64, 96), np.uint8)
    values = texture(rng, 64, 96)
    mask[20:44, 40:60] = 255  # in the two tiles of the middle column
    paths = [save(values, tmp_path / "a.png"), save(texture(rng, 64, 96), tmp_path / "without.png")]
    labelled = [Sample(paths[0], "spot", save(mask, tmp_path / "a_mask.png")), Sample(paths[1], "spot")]
    transform = ImageTransform(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    data, detector = SimpleNamespace(transform=transform, images=SimpleNamespace(seed=5)), SimpleNamespace(known=6)
    learned = list(_real(data, detector, labelled, Tiling((32, 32), 0)))
    chance = np.random.default_rng(5)
    pieces = [np.s_[top : top + 32, 32:64] for top in (0, 32) for _ in range(3)]
    wanted = [varied_with(values[piece], mask[piece] > 0, chance) for piece in pieces]
    for example, (image, truth) in zip(learned, wanted, strict=True):
        assert example.known
        assert np.array_equal(example.image, image)
        assert np.array_equal(example.mask, truth)
    with pytest.raises(UserError, match="none of 1 images has a mask"):
        next(_real(data, detector, labelled[1:], Tiling((32, 32), 0)))


LARGE = """
import sys, time
import numpy as np
from PIL import Image
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.reports.peak_memory import peak_memory_mb
inspector = Inspector.load(sys.argv[1], "cpu", validity=False)
rng = np.random.default_rng(0)
values = np.tile((120 + rng.normal(0, 6, (256, 256, 3))).clip(0, 255).astype(np.uint8), (12, 16, 1))
values[2000:2012, 3000:3012] = (250, 20, 20)
image = Image.fromarray(values)
del values
start, before = time.perf_counter(), peak_memory_mb()
said = inspector(image)
after = peak_memory_mb()
print(int(said.anomaly_map.argmax()), int(after - before), said.anomaly_map.shape, time.perf_counter() - start)
"""


@pytest.mark.slow
def test_a_image_of_4096_x_3072_is_predicted_in_bounded_memory(tiled):
    _, run = tiled
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    command_line = [sys.executable, "-c", LARGE, checkpoint]
    ran = subprocess.run(command_line, capture_output=True, text=True, cwd=repository, check=False)
    assert ran.returncode == 0, ran.stderr
    place, grown, *_ = ran.stdout.split()
    row, column = divmod(int(place), 4096)
    assert 1996 <= row < 2016 + 4, ran.stdout
    assert 2996 <= column < 3016 + 4, ran.stdout
    assert 0 < int(grown) < 500, f"{ran.stdout}: more MiB than a few maps of its size"
