"""The localiser: maps from two detectors, scores from the first alone, each fitted as if it were alone."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy import BARE, command, composed
from toy_detectors import Brightness

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.padim import PaDiM
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.alignment import Alignment
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.localiser import Localiser
from anomaly_lightning.training.checkpoint import load_model
from anomaly_lightning.training.localising import check_localising
from anomaly_lightning.training.session import TrainingSession

LAYERS = ["layer1", "layer2", "layer3"]
OPTIONS = (
    "backbone=tiny", f"backbone.layers=[{','.join(LAYERS)}]", "data.image_size=[64,48]", "features.grid=[8,6]",
    "model.network.width=8", "model.network.latent=4", "trainer.accelerator=cpu", "trainer.max_epochs=2",
    "cache.dtype=float32", "bootstrap=0", "validity=false", *BARE,
)  # fmt: skip
SECOND = {
    "gaussian": ("localiser=gaussian",),
    "unet": ("localiser=unet", "localiser.steps=6", "localiser.detector.examples=12", "localiser.batch_size=8"),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny", "tiny", LAYERS, weights="random")


@pytest.fixture(scope="module")
def packed(backbone: Backbone) -> tuple[Tensor, Spec]:
    """Packed features of eight images, and what they are."""
    extractor = FeatureExtractor(backbone, coarse="packed")
    spec = Spec(extractor.shape((64, 48)), (64, 48), extractor.scales((64, 48)))
    return extractor(torch.randn(8, 3, 64, 48)), spec


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Checkpoints of the same run without a localiser and with each."""
    place = tmp_path_factory.mktemp("localised")
    found = {}
    for name, options in {"none": ("localiser=none",), **SECOND}.items():
        where = ("category=custom", "category.name=widget", f"data.root={root}", f"run_dir={place}/{name}")
        ran = command("train", *OPTIONS, *where, *options, cwd=place)
        assert ran.code == 0, ran.out
        found[name] = place / name
    return found


def test_maps_are_the_errors_times_the_root_of_what_is_found(packed) -> None:
    features, spec = packed
    second = PaDiM(reduced=None, finest=True)
    localiser = Localiser(second, 0.25, Alignment(3, grid=[8, 6]), spec)
    second.prepare([features])
    errors = torch.rand(8, 8, 6)
    found = localiser(errors, features)
    large = F.interpolate(errors[:, None], (16, 12), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(found.numpy(), large.numpy() * np.sqrt(0.25 + second.error_map(features).numpy()), 1e-5)
    assert localiser.grid((8, 6)) == (16, 12)
    assert localiser.grid((32, 6)) == (32, 12), "the finer one, along each axis"


def test_what_the_first_detector_sees_is_what_the_extractor_aligns(backbone, packed) -> None:
    spec = packed[1]
    alone = FeatureExtractor(backbone, grid=[8, 6], neighbourhood=3)
    images = torch.randn(2, 3, 64, 48)
    seen = Localiser(PaDiM(finest=True), 0.0, alone.alignment, spec).aligned(alone.packed()(images))
    assert torch.equal(seen, alone(images))


def test_the_finest_layer_alone_is_what_padim_sees(backbone, packed) -> None:
    spec = packed[1]
    layer = backbone(torch.randn(9, 3, 64, 48))[0]
    whole = torch.cat([F.pixel_unshuffle(layer, 4), torch.randn(9, 12 * 4 + 16, 4, 3)], 1)
    one, other = PaDiM(reduced=None, finest=True), PaDiM(reduced=None)
    one.build(spec)
    other.build(Spec((8, 16, 12), (64, 48)))
    one.prepare([whole])
    other.prepare([layer])
    torch.testing.assert_close(one.error_map(whole), other.error_map(layer))
    assert one.grid(spec) == (16, 12)


@pytest.mark.parametrize("name", SECOND)
def test_it_has_no_say_in_score_and_threshold(runs, name) -> None:
    (alone, known), (model, card) = (load_model(runs[run] / "checkpoints" / "best.ckpt") for run in ("none", name))
    images = torch.randn(5, 3, 64, 48)
    with torch.no_grad():
        before, after = alone.outputs(alone.inputs(images)), model.outputs(model.inputs(images))
        located = model.localiser(model.error_map(model.inputs(images)), model.inputs(images))
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-4, atol=1e-5)
    assert card.thresholds.score == pytest.approx(known.thresholds.score, rel=1e-4)
    assert card.thresholds.pixel != pytest.approx(known.thresholds.pixel, rel=1e-2), "of other maps"
    assert after.errors.shape == (5, 16, 12)
    torch.testing.assert_close(after.errors, located)
    torch.testing.assert_close(after.maps, model.mapping.maps(located))
    assert torch.isfinite(after.maps).all()


@pytest.mark.parametrize("name", SECOND)
def test_images_say_what_their_stored_features_say(runs, name) -> None:
    model = load_model(runs[name] / "checkpoints" / "best.ckpt")[0]
    images = torch.randn(5, 3, 64, 48)
    with torch.no_grad():
        straight, stored = model.inspected(images), model.outputs(model.inputs(images))
    for one, other in zip(straight, stored, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_unet_was_trained_and_the_detector_left_alone(runs) -> None:
    alone, model = (load_model(runs[run] / "checkpoints" / "best.ckpt")[0] for run in ("none", "unet"))
    assert int(model.localiser.detector.steps) == 6
    for name, value in alone.detector.state_dict().items():
        torch.testing.assert_close(model.detector.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_metrics_and_report_come_from_the_located_maps(runs) -> None:
    before, after = (json.loads((runs[run] / "metrics.json").read_text()) for run in ("none", "unet"))
    assert before["image"]["auroc"] == after["image"]["auroc"]
    assert before["pixel"]["auroc"] != after["pixel"]["auroc"]
    assert "unet" in (runs["unet"] / "report.html").read_text()
    shapes = [np.load(runs[run] / "error_maps.npy").shape[1:] for run in ("none", "unet")]
    assert shapes == [(8, 6), (16, 12)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("localiser=unet", "cache.mode=off"), "cache.mode=disk"),
        (("localiser=gaussian", "localiser.floor=-1"), "localiser.floor"),
        (("localiser=gaussian", "experiment=ganomaly", "model.network.latent=4"), "localiser=none"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_fit(root, tmp_path, options, said) -> None:
    where = ("category=custom", "category.name=widget", f"data.root={root}", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match=said):
        TrainingSession(composed(*OPTIONS, *where, *options))


def test_several_processes_are_refused_where_there_are_gradients(root, tmp_path) -> None:
    where = ("category=custom", "category.name=widget", f"data.root={root}", f"run_dir={tmp_path}/run")
    session = TrainingSession(composed(*OPTIONS, *where, *SECOND["unet"]))

    class Two:
        world_size = 2

    with pytest.raises(UserError, match="one process; 2 train here"):
        check_localising(Two(), session.module, session.data)


def test_a_second_detector_of_images_is_refused(packed) -> None:
    with pytest.raises(UserError, match="sees features"):
        Localiser(Brightness(), 0.0, Alignment(3), packed[1])
