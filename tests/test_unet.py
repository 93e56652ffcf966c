"""The U-Net: scales kept by the features, its loss, its training on made and on real defects, and the holding out."""

import json
import shutil

import numpy as np
import pytest
import torch
from toy import BARE, command

from anomaly_lightning.data.folder import defects_in
from anomaly_lightning.data.holding_out import hold_out
from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.detectors.base import Spec
from anomaly_lightning.detectors.parts.planting import planted
from anomaly_lightning.detectors.parts.pyramid import Pyramid
from anomaly_lightning.detectors.parts.scales import Scales
from anomaly_lightning.detectors.unet import UNet, localisation_loss
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.features.backbone import Backbone
from anomaly_lightning.features.extractor import FeatureExtractor
from anomaly_lightning.features.packing import can_pack, packed_steps
from anomaly_lightning.training.checkpoint import load_model

LAYERS = ["layer1", "layer2", "layer3"]
OPTIONS = (
    "model=unet", "backbone=tiny", f"backbone.layers=[{','.join(LAYERS)}]", "data.image_size=[64,48]",
    "trainer.accelerator=cpu", "trainer.max_steps=6", "model.examples=12", "bootstrap=0", "validity=false", *BARE,
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone():
    return Backbone("tiny", "tiny", LAYERS, weights="random")


@pytest.fixture(scope="module")
def place(root):
    return ("category=custom", "category.name=widget", f"data.root={root}")


def test_packed_features_hold_every_layer_to_the_bit(backbone):
    extractor, images = FeatureExtractor(backbone, coarse="packed"), torch.randn(2, 3, 64, 48)
    features, scales = extractor(images), extractor.scales((64, 48))
    assert scales == ((8, 16, 12), (12, 8, 6), (16, 4, 3))
    assert tuple(features.shape[1:]) == extractor.shape((64, 48)) == (8 * 16 + 12 * 4 + 16, 4, 3)
    seen = Scales(Spec(extractor.shape((64, 48)), (64, 48), scales))
    for layer, unfolded in zip(backbone(images), seen.unfolded(features), strict=True):
        assert torch.equal(layer, unfolded)
    assert torch.equal(seen.folded(backbone(images)), features)
    piece = seen.unfolded(features[:, :, 1:3, 2:])
    assert torch.equal(piece[0], backbone(images)[0][:, :, 4:12, 8:])
    assert FeatureExtractor(backbone).scales((64, 48)) == ()


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN, or not its operator")
def test_the_network_computes_the_same_with_packed_weights_until_it_changes():
    torch.manual_seed(0)
    network = Pyramid([8, 12, 16], (10, 6, 4))
    layers = [torch.randn(4, count, side, side) for count, side in ((8, 16), (12, 8), (16, 4))]
    network(layers)  # statistics of the BatchNorms that are not those of a fresh one
    network.eval()
    with torch.inference_mode():
        plain = network(layers)
        network.pack(packed_steps)
        assert network.packed
        torch.testing.assert_close(network(layers), plain, rtol=1e-5, atol=1e-5)
        assert not [name for name in network.state_dict() if "packed" in name]
        network.load_state_dict({name: value + 0.1 for name, value in network.state_dict().items()})
        assert network.packed is None
        assert (network(layers) - plain).abs().max() > 0.01
    network.pack(packed_steps)
    assert network.train().packed is None


def test_what_packing_does_not_go_with_is_refused(backbone):
    for wrong in ({"grid": 8}, {"groups": 1}):
        with pytest.raises(UserError, match="packed"):
            FeatureExtractor(backbone, coarse="packed", **wrong)
    with pytest.raises(UserError, match="multiples"):
        FeatureExtractor(backbone, coarse="packed").shape((68, 48))


def test_the_loss_is_its_equation():
    logits, shares = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[0.9, 0.1]]]])
    p = 1 / (1 + np.exp([-2.0, 1.0]))
    focal = np.mean([-np.log(p[0]) * (1 - p[0]) ** 2, -np.log(1 - p[1]) * p[1] ** 2])
    dice = 1 - (2 * p[0] + 8) / (p.sum() + 1 + 8)
    absolute = np.mean([1 - p[0], p[1]])
    assert localisation_loss(logits, shares).item() == pytest.approx(4 * focal + 0.5 * dice + 0.5 * absolute, rel=1e-5)


def test_planted_noise_lies_behind_the_mask_of_chosen_images():
    generator, layers = torch.Generator().manual_seed(0), [torch.zeros(4, 3, 16, 12), torch.zeros(4, 5, 4, 3)]
    chosen = torch.tensor([True, False, True, True])
    changed, mask = planted(layers, chosen, generator)
    assert mask.shape == (4, 1, 16, 12)
    assert torch.equal(mask.amax((1, 2, 3)) > 0, chosen)
    assert torch.equal(changed[0].abs().amax(1) > 0, mask[:, 0] > 0)
    assert not changed[1][1].any()
    assert mask.mean() < 0.5


def made_unet(scales=((4, 16, 12), (6, 4, 3)), **options):
    torch.manual_seed(0)
    detector = UNet(**{"dropout": 0.0, "noise": 0.0, "planted": 0.0, **options})
    ratio = scales[0][1] // scales[1][1]
    detector.build(Spec((scales[0][0] * ratio**2 + scales[1][0], *scales[1][1:]), (64, 48), scales))
    return detector


def test_it_learns_where_defects_are_from_examples():
    """Features that are larger where a mask is set; the map must be, too, on images that were not trained on."""
    detector, generator = made_unet(), torch.Generator().manual_seed(1)

    def drawn(count):
        masks = torch.zeros(count, 64, 48, dtype=torch.bool)
        for mask in masks:
            y, x = (int(torch.randint(limit, (), generator=generator)) for limit in (40, 24))
            mask[y : y + 24, x : x + 24] = True
        shares = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), (16, 12))
        fine = torch.randn(count, 4, 16, 12, generator=generator) + 3 * shares
        folded = torch.nn.functional.pixel_unshuffle(fine, 4)
        return torch.cat([folded, torch.randn(count, 6, 4, 3, generator=generator)], 1), masks, shares[:, 0] > 0.5

    features, masks, _ = drawn(32)
    detector.prepare([features])
    rows = detector.explain(features, masks, torch.ones(32, dtype=torch.bool))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    detector.train()
    for _ in range(60):
        optimizer.zero_grad()
        detector.losses(rows, "all")["total"].backward()
        optimizer.step()
    fresh, _, truth = drawn(8)
    error = detector.eval().error_map(fresh)
    assert error.shape == (8, 16, 12) == (8, *detector.grid(Spec((70, 4, 3), (64, 48), ((4, 16, 12), (6, 4, 3)))))
    assert ((error > 0.7) == truth).float().mean() > 0.9


def test_an_image_without_a_mask_is_pulled_up_somewhere_and_weighs_less():
    detector, features = made_unet(), torch.randn(3, 70, 4, 3, generator=torch.Generator().manual_seed(0))
    detector.eval()
    nowhere, unknown = torch.zeros(3, 64, 48, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    loss = detector.losses(detector.explain(features, nowhere, unknown), "all")["total"]
    loss.backward()
    assert 0 < loss < detector.losses(detector.explain(features, ~nowhere, ~unknown), "all")["total"]
    before = detector.error_map(features).amax()
    with torch.no_grad():
        for parameter in detector.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    assert detector.error_map(features).amax() > before


def test_values_without_a_meaning_are_refused():
    for wrong in (
        {"widths": []},
        {"widths": 48},
        {"examples": -1},
        {"planted": 2.0},
        {"crop": 0.0},
        {"dropout": 1.0},
        {"noise": -1.0},
    ):
        with pytest.raises(UserError, match=r"model\."):
            UNet(**wrong)


@pytest.fixture(scope="module")
def held(root, tmp_path_factory):
    """The small category with two defects and then one more taken out of its test set."""
    folder = tmp_path_factory.mktemp("held") / "out"
    ran = command(
        "holdout", "category=custom", "category.name=widget", f"data.root={root}", f"output={folder}",
        "counts=[2,3]", cwd=folder.parent,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert [path.name for path in folder.parent.iterdir()] == ["out"], "nothing else is left where it was started"
    return folder


def test_what_is_held_out_is_no_longer_tested_on(root, held):
    def contents(folder):
        return sorted(path.read_bytes() for path in folder.rglob("*.png"))

    tested, two, three = (contents(held / name) for name in ("widget/test", "labelled/2", "labelled/3"))
    assert sorted(tested + [image for image in three if image in contents(root / "widget" / "test")]) == contents(
        root / "widget" / "test"
    )
    assert set(two) < set(three)
    samples = defects_in(held / "labelled" / "3")
    assert len(samples) == 3
    assert all(sample.mask is not None and sample.path.stem in sample.mask.stem for sample in samples)
    assert not set(tested) & {sample.path.read_bytes() for sample in samples}


def test_parts_stay_together_and_counts_must_make_sense(tmp_path):
    files = [tmp_path / f"part{part}_view{view}.png" for part in range(4) for view in range(2)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    category = Category("x", (Sample(files[0]),), tuple(Sample(file, "crack") for file in files))
    out = hold_out(category, tmp_path / "out", [3], item=r"part\d+")
    taken = {path.stem[5:10] for path in (out / "labelled" / "3").rglob("*.png")}
    left = {path.stem[5:10] for path in (out / "x" / "test").rglob("*.png")}
    assert len(taken) == 2
    assert not taken & left
    assert len(left) == 2
    with pytest.raises(DataError, match="is there already"):
        hold_out(category, tmp_path / "out", [3])
    for counts in ([], [0], [8], [9]):
        with pytest.raises(DataError, match="counts"):
            hold_out(category, tmp_path / "other", counts)


def test_it_trains_from_the_command_with_labelled_defects_and_loads(held, tmp_path):
    options = ("category=custom", "category.name=widget", f"data.root={held}", f"run_dir={tmp_path}/run")
    ran = command("train", *OPTIONS, *options, f"labelled_defects={held}/labelled/2", cwd=tmp_path)
    assert ran.code == 0, ran.out
    pixel = json.loads((tmp_path / "run" / "metrics.json").read_text())["pixel"]
    assert {"f1", "iou", "aupro"} <= set(pixel)
    model, card = load_model(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert card.features.arguments["coarse"] == "packed"
    assert model(torch.zeros(1, 3, 64, 48))[0].shape == (1, 64, 48)
    assert tuple(model.error_map(model.inputs(torch.zeros(1, 3, 64, 48))).shape) == (1, 16, 12)


@pytest.mark.parametrize("noise", ["perlin", "ascent"])
def test_noise_learns_from_labelled_defects_too(held, tmp_path, noise):
    kept = [option for option in OPTIONS if not option.startswith("model")]
    where = ("category=custom", "category.name=widget", f"data.root={held}", "features.grid=[8,6]")
    scores = []
    for number, more in enumerate(((), (f"labelled_defects={held}/labelled/2", "model.known=8"))):
        run = tmp_path / str(number)
        ran = command("train", *kept, f"model=noise_{noise}", *where, *more, f"run_dir={run}", cwd=tmp_path)
        assert ran.code == 0, ran.out
        scores.append((run / "predictions.csv").read_text())
    assert scores[0] != scores[1]


def test_a_test_image_among_the_labelled_defects_is_refused_by_its_content(place, root, tmp_path):
    copied = next((root / "widget" / "test" / "spot").glob("*.png"))
    (tmp_path / "labelled").mkdir()
    shutil.copy(copied, tmp_path / "labelled" / "renamed.png")
    ran = command("train", *OPTIONS, *place, f"labelled_defects={tmp_path}/labelled", cwd=tmp_path)
    assert ran.code != 0
    assert "is a test image" in ran.out


def test_without_stored_features_it_says_what_to_do(place, tmp_path):
    ran = command("train", *OPTIONS, *place, "cache.mode=off", "test=false", cwd=tmp_path)
    assert ran.code != 0
    assert "cache.mode=disk" in ran.out


@pytest.mark.slow
def test_its_graph_computes_what_it_does(backbone):
    onnxruntime = pytest.importorskip("onnxruntime")
    from anomaly_lightning.deploy.graph import to_onnx
    from anomaly_lightning.model import AnomalyModel
    from anomaly_lightning.scoring import Scoring

    extractor = FeatureExtractor(backbone, coarse="packed")
    detector, spec = UNet(), Spec(extractor.shape((64, 48)), (64, 48), extractor.scales((64, 48)))
    detector.build(spec)
    detector.prepare([extractor(torch.randn(8, 3, 64, 48))])
    model = AnomalyModel(extractor, detector, Scoring(grid=detector.grid(spec), size=(64, 48))).eval()
    session = onnxruntime.InferenceSession(to_onnx(model, (64, 48)).SerializeToString())
    images = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        maps, scores = model(images)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found[0]), maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found[1]), scores, rtol=1e-4, atol=1e-5)


def test_the_image_itself_may_be_the_finest_skip(place, tmp_path):
    layers = f"backbone.layers=[{','.join(['image', *LAYERS])}]"
    given = [layers if option.startswith("backbone.layers=") else option for option in OPTIONS]
    ran = command("train", *given, *place, f"run_dir={tmp_path}/run", cwd=tmp_path)
    assert ran.code == 0, ran.out
    model, card = load_model(tmp_path / "run" / "checkpoints" / "best.ckpt", ())
    assert model.detector.grid(Spec(card.features.shape, (64, 48), model.extractor.scales((64, 48)))) == (64, 48)
    assert model.extractor.scales((64, 48))[0] == (3, 64, 48)
