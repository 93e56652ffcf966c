"""The metrics of a run against maps and masks put together by hand."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from report_run import BAD_SCORES, HEIGHT, PIXEL_THRESHOLD, WIDTH, make_results
from sklearn.metrics import f1_score

from anomaly_lightning.metrics import PixelMetrics
from anomaly_lightning.reports import run_files
from anomaly_lightning.reports.page.gallery import drawn_images
from anomaly_lightning.runtime.card import RegionCard
from anomaly_lightning.runtime.masks import predicted

LEFT = RegionCard((HEIGHT, WIDTH), ((0.0, 0.0), (0.75, 0.0), (0.75, 1.0), (0.0, 1.0)), None, fixed=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("run"))


def at_256(pixels):
    """Pixels at 256 x 256 by Pillow's nearest neighbour."""
    kind = Image.fromarray(pixels.numpy().astype(np.float32)).resize((256, 256), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(kind)).to(pixels.dtype)


@pytest.mark.parametrize("region", [None, LEFT])
def test_aupro_at_256_is_that_of_maps_and_masks_at_256(results, region):
    looked = dataclasses.replace(results, card=results.card.replace(region=region))
    expected, size = PixelMetrics(), (HEIGHT, WIDTH)
    for index, sample in enumerate(looked.samples):
        inside = torch.zeros(size, dtype=torch.bool)
        inside[:, : WIDTH if region is None else 3 * WIDTH // 4] = True
        own, truth = looked.anomaly_map(index, size), looked.truth(index)
        expected.update(at_256(own), at_256(truth), sample.defect, at_256(inside))
    pixel = looked.metrics(bootstrap=0)["pixel"]
    assert pixel["aupro_256"] == pytest.approx(expected.compute(0)[0]["aupro"], abs=1e-4)
    assert pixel["aupro_256"] != pixel["aupro"]


def test_f1_of_pixels_pools_all_images_at_the_threshold_of_normals(results):
    size = (HEIGHT, WIDTH)
    maps = np.stack([results.anomaly_map(index, size).numpy() for index in range(len(results.samples))])
    masks = np.stack([results.truth(index).numpy() for index in range(len(results.samples))])
    pixel = results.metrics(bootstrap=0)["pixel"]
    assert pixel["f1"] == pytest.approx(f1_score(masks.ravel(), maps.ravel() > PIXEL_THRESHOLD))
    assert pixel["images"] == 8 + sum(map(len, BAD_SCORES.values()))


def test_with_a_share_f1_and_mask_are_of_what_reaches_it_in_each_region(results):
    card = results.card.replace(scoring=msgspec.structs.replace(results.card.scoring, mask_share=0.4))
    trimmed, size = dataclasses.replace(results, card=card), (HEIGHT, WIDTH)
    maps = [results.anomaly_map(index, size).numpy() for index in range(len(results.samples))]
    masks = np.stack([results.truth(index).numpy() for index in range(len(results.samples))])
    found = np.stack(
        [predicted(own, PIXEL_THRESHOLD, 0.4, round(25 * min(size) / min(results.transform.size))) for own in maps]
    )
    assert np.array_equal(trimmed.mask(maps[-1]), found[-1])
    pixel = trimmed.metrics(bootstrap=0)["pixel"]
    assert pixel["f1"] == pytest.approx(f1_score(masks.ravel(), found.ravel()))
    assert pixel["f1"] != results.metrics(bootstrap=0)["pixel"]["f1"]


def test_scores_and_pixels_within_the_margin_of_a_threshold_are_called_by_nothing(results, tmp_path):
    near = dataclasses.replace(
        results,
        scores=torch.full_like(results.scores, results.threshold * (1 + 3e-6)),
        error_maps=torch.full_like(results.error_maps, results.pixel_threshold * (1 + 3e-6)),
    )
    blocks = near.metrics(bootstrap=20)
    assert (blocks["image"]["confusion"]["tp"], blocks["image"]["confusion"]["fp"]) == (0, 0)
    assert (blocks["image"]["recall"], blocks["image"]["balanced_accuracy"]) == (0, 0.5)
    assert {row["recall"] for row in blocks["by_defect"].values()} == {0}
    assert blocks["pixel"]["f1"] == 0
    run_files.write_predictions(tmp_path / "predictions.csv", near)
    assert {row["decision"] for row in run_files.read_predictions(tmp_path / "predictions.csv")} == {"0"}
    drawn = drawn_images(near, [str(index) for index in range(len(near.samples))])
    assert {image["predicted"] for image in drawn} == {""}


@pytest.mark.parametrize("kind", ["defects", "masks"])
def test_without_defects_or_masks_every_reason_is_told(tmp_path, kind):
    blocks = make_results(tmp_path, **{kind: False}).metrics(bootstrap=10)
    undefined = {name for name, value in blocks["pixel"].items() if value is None}
    assert undefined == {
        "auroc",
        "average_precision",
        "aupro",
        "aupro_005",
        "aupro_256",
        "aupimo",
        "f1",
        "f1_oracle",
        "iou",
    }
    assert {f"pixel.{name}" for name in undefined} <= set(blocks["notes"])
    assert blocks["image"]["pg2"] is None if kind == "defects" else blocks["image"]["pg2"] is not None
