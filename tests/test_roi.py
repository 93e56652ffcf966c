"""data.roi: what lies outside has no say in score, heatmap, thresholds or figures, in training or afterwards."""

import csv
import json

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from toy import BARE, DEFECTS, SMALL, command, flat, save, texture

from anomaly_lightning.errors import DataError
from anomaly_lightning.metrics import PixelMetrics
from anomaly_lightning.runtime.card import RegionCard
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.runtime.region import Region
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring

LEFT = "data.roi=[[0,0],[0.5,0],[0.5,1],[0,1]]"
TRANSFORM = ImageTransform((64, 48), (0.5,) * 3, (0.5,) * 3)


def scoring_of(region=None, **settings):
    """Scoring of 8 x 6 cells over 64 x 48 pixels, of a region where one is given."""
    seen = None if region is None else torch.from_numpy(TRANSFORM.mask(region.mask(region.size)))
    return Scoring(**settings, grid=(8, 6), size=(64, 48), region=seen)


def test_a_polygon_in_pixels_or_fractions_is_what_numpy_says():
    wanted = np.zeros((60, 84), bool)
    wanted[15:45, 21:63] = True
    pixels = Region.from_config([[21, 15], [63, 15], [63, 45], [21, 45]], (60, 84))
    fractions = Region.from_config([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]], (60, 84))
    np.testing.assert_array_equal(pixels.mask((60, 84)), wanted)
    np.testing.assert_array_equal(fractions.mask((60, 84)), wanted)
    assert (pixels.fixed, fractions.fixed) == (True, False)
    np.testing.assert_array_equal(fractions.mask((120, 168)), wanted.repeat(2, 0).repeat(2, 1))


def test_a_mask_file_survives_the_way_through_plain_values(tmp_path):
    values = np.random.default_rng(0).random((60, 84)) > 0.5
    file = save(values.astype(np.uint8) * 255, tmp_path / "roi.png")
    card = msgspec.json.encode(Region.from_config(str(file), (60, 84)).card())
    roi = Region.from_card(msgspec.json.decode(card, type=RegionCard))
    np.testing.assert_array_equal(roi.mask((60, 84)), values)


def test_the_score_is_that_of_the_region(tmp_path):
    errors = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0))
    errors[:, :, 4:] += 50
    roi = Region.from_config([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], (60, 84))
    for reduction in ("max", "top", "mean"):
        plain = scoring_of(sigma=0, reduction=reduction)
        maps, scores = scoring_of(roi, sigma=0, reduction=reduction)(errors)
        assert (maps[:, :, 24:] == 0).all()
        only, _ = plain(torch.where(torch.arange(6) < 3, errors, 0.0))
        np.testing.assert_allclose(maps[:, :, :24], only[:, :, :24])
        np.testing.assert_allclose(scores, plain.scores(only[:, :, :24]))


def grazing(columns, rows):
    """A region of the first columns and rows of images of 64 x 48 pixels (H x W), and its maps of errors."""
    right, bottom = columns / 48, rows / 64
    roi = Region.from_config([[0, 0], [right, 0], [right, bottom], [0, bottom]], (64, 48))
    scoring = scoring_of(roi, sigma=0)
    assert int(scoring.region.sum()) == columns * rows
    return scoring.region, scoring.maps


@pytest.mark.parametrize(("columns", "rows"), [(25, 64), (25, 33), (31, 39), (24, 32), (1, 1)])
def test_a_cell_at_the_border_counts_if_one_pixel_of_it_lies_inside(columns, rows):
    errors = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0)) + 1
    region, maps = grazing(columns, rows)
    cells = region.numpy().reshape(8, 8, 6, 8).any((1, 3))  # 8 x 8 pixels a cell
    whole = scoring_of(sigma=0).maps(errors * torch.from_numpy(cells))
    np.testing.assert_allclose(maps(errors), np.where(region, whole, 0), rtol=1e-6)
    beyond = torch.where(torch.from_numpy(cells), errors, 100.0)
    np.testing.assert_array_equal(maps(beyond), maps(errors))


def test_pixels_outside_are_not_counted():
    values, mask = torch.rand(10, 20), torch.zeros(10, 20, dtype=torch.bool)
    mask[2:5, 3:6] = mask[7:9, 15:18] = True
    inside = torch.zeros(10, 20, dtype=torch.bool)
    inside[:, :12] = True
    masked, cropped = PixelMetrics(0.5), PixelMetrics(0.5)
    masked.update(values, mask, "spot", inside)
    cropped.update(values[:, :12], mask[:, :12], "spot")
    assert masked.compute(0)[0] == cropped.compute(0)[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[0, 0], [1, 1]], "at least 3 corners"),
        ([[0, 0, 1], [1, 1, 2], [3, 3, 3]], "expected a mask file, or corners"),
        ([[200, 200], [300, 200], [300, 300]], "nothing of an image"),
    ],
)
def test_what_is_no_region_is_refused(given, words):
    with pytest.raises(DataError, match=words):
        Region.from_config(given, (60, 84))


def test_a_mask_of_another_size_is_refused(tmp_path):
    file = save(np.full((30, 30), 255, np.uint8), tmp_path / "roi.png")
    with pytest.raises(DataError, match="is 30x30 pixels, but the images are 84x60"):
        Region.from_config(str(file), (60, 84))


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A run that looks at the left half of images whose defects are left or right."""
    folder, rng = tmp_path_factory.mktemp("region"), np.random.default_rng(3)
    for number in range(16):
        save(texture(rng), folder / "data" / "widget" / "train" / "good" / f"{number}.png")
    for side, x in (("left", 10), ("right", 60)):
        for number in range(3):
            image, mask = Image.fromarray(texture(rng)), Image.new("L", (84, 60))
            for drawn, colour in ((image, (250, 20, 20)), (mask, 255)):
                ImageDraw.Draw(drawn).rectangle((x, 20, x + 12, 32), fill=colour)
            save(np.asarray(image), folder / "data" / "widget" / "test" / side / f"{number}.png")
            save(np.asarray(mask), folder / "data" / "widget" / "ground_truth" / side / f"{number}_mask.png")
    for number in range(3):
        save(texture(rng), folder / "data" / "widget" / "test" / "good" / f"{number}.png")
    small = tuple(value for value in SMALL if not value.startswith("model."))
    ran = command(
        "train", *small, *BARE, "model=pca", "category=custom", "category.name=widget", f"data.root={folder / 'data'}",
        LEFT, "scoring.sigma=1", cwd=folder,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    return folder, next(folder.glob("outputs/train/widget/*/*"))


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_finds_what_is_inside_and_is_blind_to_the_rest(looked):
    _, run = looked
    scores = {defect: [] for defect in ("good", "left", "right")}
    for row in rows(run / "predictions.csv"):
        scores[row["defect"]].append(float(row["score"]))
    assert min(scores["left"]) > 2 * max(scores["right"] + scores["good"])
    assert DEFECTS  # the toy's own defects play no part here
    assert json.loads((run / "metrics.json").read_text())["pixel"]["regions"] == 3


def test_evaluate_and_predict_look_at_the_same_region(looked, tmp_path):
    folder, run = looked
    checkpoint = run / "checkpoints" / "best.ckpt"
    ran = command("evaluate", f"checkpoint={checkpoint}", "bootstrap=0", "heatmaps=false", cwd=tmp_path)
    assert ran.code == 0, ran.out
    again = next(tmp_path.glob("outputs/evaluate/*/predictions.csv"))
    trained = [float(row["score"]) for row in rows(run / "predictions.csv")]
    assert [float(row["score"]) for row in rows(again)] == pytest.approx(trained, rel=1e-3)
    inspector = Inspector.load(checkpoint, "cpu")
    said = inspector(read_image(folder / "data" / "widget" / "test" / "right" / "0.png"))
    assert (said.anomaly_map[:, 42:] == 0).all()
    assert (said.anomaly_map[:, :42] > 0).any()
    with pytest.raises(DataError, match="another aspect"):
        inspector(Image.new("RGB", (84, 120)))


def test_a_image_of_another_size_is_refused_before_training(looked, tmp_path):
    folder, _ = looked
    file = save(np.full((60, 84), 255, np.uint8), tmp_path / "roi.png")
    save(texture(np.random.default_rng(0), 120, 168), tmp_path / "more" / "a.png")
    normal = f"data.normal=[{folder / 'data' / 'widget' / 'train' / 'good'},{tmp_path / 'more'}]"
    small = tuple(value for value in SMALL if not value.startswith("model."))
    given = ("model=pca", "data=folder", "category.name=widget", normal, f"data.roi={file}")
    ran = command("train", *small, *given, cwd=tmp_path)
    assert ran.code == 1
    assert "a.png is 168x120 pixels, but data.roi was drawn for images of 84x60" in flat(ran.out)
