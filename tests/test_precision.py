"""features.precision: what bfloat16 computes, and that nobody mixes its features with those of float32."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from toy import BARE, card, command, flat

from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.pca import PCA
from anomaly_lightning.features import precision
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose
from anomaly_lightning.training.checkpoint import load_model
from anomaly_lightning.training.module import AnomalyModule

ROUNDING = 2.0**-8  # of a bfloat16 number: eight bits of it are stored behind the first


def extractor(given, layers=("layer2", "layer3")):
    return FeatureExtractor(Backbone("tiny", "tiny", layers, weights="random"), [8, 6], precision=given)


def images(count=2):
    return torch.randn(count, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_bf16_rounds_the_factors_of_a_convolution_and_its_sum_and_nothing_else():
    ours = extractor("bf16", ["layer1"])
    state = {name.removeprefix("body.layer1."): value.double() for name, value in ours.backbone.state_dict().items()}
    scale = state["1.weight"] / (state["1.running_var"] + 1e-5).sqrt()
    weight, bias = state["0.weight"] * scale.view(-1, 1, 1, 1), state["1.bias"] - state["1.running_mean"] * scale
    rounded = [value.bfloat16().double() for value in (images(), weight, bias)]
    wanted = F.adaptive_avg_pool2d(F.conv2d(*rounded, stride=4, padding=1).relu(), (8, 6))
    found = ours(images())
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=ROUNDING, atol=1e-6)


@torch.no_grad()
def test_bf16_is_close_to_32_and_not_the_same():
    plain, quick = extractor(32)(images()), extractor("bf16")(images())
    off = ((quick - plain).norm() / plain.norm()).item()
    assert ROUNDING / 100 < off < 3 * ROUNDING, "a few roundings, one after the other"


@torch.no_grad()
@pytest.mark.parametrize("given", [32, "bf16"])
def test_the_precision_of_a_training_around_it_has_no_say(given):
    ours = extractor(given)
    alone = ours(images())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(images()), alone)


def test_each_precision_has_a_store_of_its_own(tmp_path):
    ours = [extractor(given) for given in (32, "bf16")]
    transform = ImageTransform([64, 48], ours[0].backbone.mean, ours[0].backbone.std)
    stores = [compose.store_for(one, transform, "disk", tmp_path, "float16") for one in ours]
    assert stores[0].folder != stores[1].folder


@pytest.fixture(scope="module")
def trained(widget, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bf16")
    ran = command(
        "train", *widget, *BARE, "features.precision=bf16", "bootstrap=0", f"hydra.run.dir={folder}", cwd=folder
    )
    assert ran.code == 0, ran.out
    return folder, ran.out


def scores(file):
    with file.open(newline="") as stream:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(stream)}


def test_a_checkpoint_computes_as_its_training_did(trained, root, tmp_path):
    folder, _ = trained
    given = (f"checkpoint={folder}/checkpoints/best.ckpt", f"input={root}/widget/test", f"output={tmp_path}/out")
    assert command("predict", *given, "device=cpu", cwd=tmp_path).code == 0
    wanted, found = scores(folder / "predictions.csv"), scores(tmp_path / "out" / "decisions.csv")
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_checkpoint_keeps_the_precision_of_its_training(trained):
    model, card = load_model(trained[0] / "checkpoints" / "best.ckpt")
    assert model.extractor.precision.name == card.features.arguments["precision"] == "bf16"


def test_a_run_says_its_precision(trained):
    folder, out = trained
    said = "features bf16, training 32-true"
    assert json.loads((folder / "run.json").read_text())["resolved"]["precision"] == said
    assert said in flat(out)


@torch.no_grad()
@pytest.mark.parametrize(("given", "native", "times"), [("bf16", False, 1), ("bf16", True, 0), (32, False, 0)])
def test_one_warning_where_bf16_is_emulated(given, native, times, monkeypatch, caplog):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    ours = extractor(given)
    ours.shape((64, 48))  # asked before the network is on its device
    assert not caplog.messages
    for _ in range(3):
        ours(images())
    assert len([text for text in caplog.messages if "features.precision=bf16: cpu" in text]) == times


def convolution_flag():
    """What torch holds for float32 convolutions on a GPU, whichever of its two interfaces it has."""
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32


@pytest.mark.parametrize("given", [32, "bf16"])
def test_features_and_scores_are_never_rounded_to_tf32_and_nothing_else_is_told(given, monkeypatch):
    ours, before, seen = extractor(given), convolution_flag(), []
    spec, detector = Spec(ours.shape((64, 48)), (64, 48)), PCA()
    detector.build(spec)
    scoring = Scoring(grid=detector.grid(spec), size=spec.image)
    module = AnomalyModule(
        AnomalyModel(ours, detector, scoring), card(ImageTransform((64, 48), (0.5,) * 3, (0.5,) * 3))
    )
    ours.backbone.folded.register_forward_hook(lambda *_: seen.append(convolution_flag()))
    monkeypatch.setattr(detector, "error_map", lambda features: seen.append(convolution_flag()) or features[:, 0])
    module(images())
    module.model.scored(torch.rand(2, *spec.features))
    assert set(seen) <= {"ieee", False}
    assert len(seen) == 3
    assert convolution_flag() == before not in seen
