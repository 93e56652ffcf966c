"""Export: one file a model, equal to its checkpoint on real and odd images; a bundle that is not whole is refused."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import test_contract
import torch
from PIL import Image
from test_public import base
from toy import BARE, command, flat, save, texture

from anomaly_lightning.bench.stages import Stopwatch
from anomaly_lightning.deploy import bundling, cost, exporting, precision
from anomaly_lightning.deploy.graph import to_onnx
from anomaly_lightning.deploy.parity import Parity, compare
from anomaly_lightning.errors import BundleError, CheckpointError, ExportError, UserError
from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.checkpoint import load_model

LITE = ("backbone=efficientnet_lite0", "data.image_size=[64,96]", "features.grid=[8,12]", "trainer.max_epochs=2")
MODELS = {
    "autoencoder": ("model=autoencoder", "model.memory.size=100"),
    "no whitening": ("model=autoencoder", "model.memory.size=100", "model.whitening=null", "model.memory.sparse=false"),
    "plain": ("experiment=quality_plain",),
    "classic": ("model=classic", "features=average", "scoring.reduction=max", "scoring.sigma=0"),
    "padim": ("model=padim", "scoring.reduction=mean"),
    "patchcore": ("model=patchcore", "model.bank=200", "model.pool=500"),
    "patchcore without neighbours": ("model=patchcore", "model.bank=200", "model.pool=500", "model.neighbours=1"),
    "pca": ("model=pca",),
    "vision transformer": (
        *("model=pca", "features.groups=1", "backbone=vit", "backbone.architecture=test_vit"),
        *("backbone.layers=[0.5,0.7,1.0]", "backbone.pretrained=r160_in1k", "backbone.weights=random"),
        "cache.dtype=float32",  # in half precision, rounding of random tokens moves so small a residual by 1.1e-4
    ),
    "transformer": ("model=transformer",),
    "unet": ("model=unet", "features.grid=null"),
    "region": ("model=pca", "data.roi=[[0.1,0.1],[0.9,0.1],[0.5,0.9]]"),
    "tiles": ("model=pca", "data.tile=[32,48]", "data.tile_overlap=8"),
    "letterbox": ("model=padim", "data.resize=letterbox"),
    "float32 features": ("model=padim", "cache.dtype=float32"),
    "bfloat16 features": ("model=pca", "cache.dtype=bfloat16"),
    "odd grid": (
        *("model=autoencoder", "model.memory.size=100", "data.image_size=[56,104]", "features.grid=[7,13]"),
        "localiser=none",  # which takes grids that fold into each other
    ),
    "neighbourhood": ("model=pca", "features.neighbourhood=3", "features.grid=[5,7]"),
    "resnet": ("model=pca", "backbone=resnet18", "backbone.weights=random"),
    "noise": ("model=noise_gaussian", "trainer.max_steps=4"),
    "noise and judge": ("model=noise_perlin", "trainer.max_steps=4"),
    "gan": ("model=gan", "trainer.max_steps=4"),
    "gan on pixels": ("experiment=ganomaly", "model.network.width=4", "trainer.max_steps=4"),
}


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    """The session's model as a bundle, and what the command printed."""
    place = tmp_path_factory.mktemp("bundles")
    ran = command("export", f"checkpoint={checkpoint}", "output=here", cwd=place)
    assert ran.code == 0, ran.out
    assert [path.name for path in place.iterdir()] == ["here"]
    return place / "here", ran.out


@pytest.fixture
def copied(bundle, tmp_path):
    shutil.copytree(bundle[0], tmp_path / "bundle")
    return tmp_path / "bundle"


def odd_images(folder):
    """Photos of other shapes than the training's, some larger than the network's input, some smaller."""
    rng = np.random.default_rng(5)
    return [save(texture(rng, *size), folder / f"{size}.png") for size in ((900, 1024), (208, 512), (31, 90), (60, 84))]


def test_what_a_bundle_holds(bundle, checkpoint):
    folder, out = bundle
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "bundle.json", "parity.json", "LICENSES", "references",
    }  # fmt: skip
    manifest, parity = (json.loads((folder / name).read_text()) for name in ("bundle.json", "parity.json"))
    assert manifest["card"] == load_model(checkpoint)[1].to_dict()
    below = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == below - {"bundle.json"}
    assert (parity["images"], parity["decisions"]["differ"]) == (12, 0)
    assert 0 < parity["score"]["largest_relative_difference"] < 1e-4
    assert {"torch", "exported"} == set(parity["latency"])
    assert "test images of the run" in parity["source"]
    assert "decisions that differ: 0" in flat(out)
    inspect = Inspector.load(folder)
    for reference in parity["references"]:
        assert inspect(folder / reference["file"]).score == pytest.approx(reference["score"], rel=1e-6)
    assert "Apache License" in (folder / "LICENSES").read_text()
    assert b"site-packages" not in (folder / "model.onnx").read_bytes(), "stack traces of the exporting machine"


def test_a_bundle_says_what_its_checkpoint_says(bundle, checkpoint, root, tmp_path):
    ours, theirs = Inspector.load(checkpoint, "cpu"), Inspector.load(bundle[0], "cpu", threads=1)
    paths = [*images_in(root / "widget" / "test", recursive=True), *odd_images(tmp_path)]
    found = compare(ours, theirs, paths)
    assert found.images == len(paths) == 16
    assert {(900, 1024), (208, 512)} <= found.sizes
    found.check("fp32")
    batch = np.random.default_rng(0).normal(size=(5, 3, 64, 48)).astype(np.float32)
    maps, scores = theirs.engine.run(batch)
    for known, values in zip(ours.engine.run(batch), (maps, scores), strict=True):
        np.testing.assert_allclose(values, known, rtol=1e-4, atol=1e-5)
    for index in range(5):
        np.testing.assert_allclose(theirs.engine.run(batch[index : index + 1])[1], scores[index], rtol=1e-5)


def test_predict_and_evaluate_take_a_bundle(bundle, checkpoint, root, tmp_path):
    found = {}
    for name, model in (("ours", checkpoint), ("theirs", bundle[0])):
        options = (f"checkpoint={model}", f"hydra.run.dir={tmp_path / name}", "bootstrap=0", "heatmaps=false")
        ran = command("evaluate", *options, cwd=tmp_path)
        assert ran.code == 0, ran.out
        ran = command("predict", f"checkpoint={model}", f"input={root}/widget/test", f"output={name}_p", cwd=tmp_path)
        assert ran.code == 0, ran.out
        decisions = (tmp_path / f"{name}_p" / "decisions.csv").read_text().splitlines()
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found[name] = [line.split(",")[3] for line in decisions], metrics
        assert (tmp_path / name / "report.html").is_file()
    assert found["ours"][0] == found["theirs"][0]
    ours, theirs = found["ours"][1], found["theirs"][1]
    assert theirs["image"]["confusion"] == ours["image"]["confusion"]
    for block, names in (("image", ("auroc", "f1", "average_precision")), ("pixel", ("auroc", "aupro", "f1"))):
        for name in names:
            assert theirs[block][name] == pytest.approx(ours[block][name], abs=1e-4), name


def test_a_bundle_needs_no_torch(bundle, checkpoint, root, tmp_path):
    """`predict` and `Inspector.load` where only the base is installed; the same decisions as with torch."""
    code = "from anomaly_lightning.predict import main; main()"
    ran = base(code, f"checkpoint={bundle[0]}", f"input={root}/widget/test", "output=here", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    command("predict", f"checkpoint={checkpoint}", f"input={root}/widget/test", "output=there", cwd=tmp_path)
    found = [(tmp_path / name / "decisions.csv").read_text().splitlines() for name in ("here", "there")]
    decided = [[(line.split(",")[0], *line.split(",")[3:]) for line in lines] for lines in found]
    assert decided[0] == decided[1]
    assert len(decided[0]) == 13


def test_the_benchmark_of_a_bundle_knows_its_budget(bundle, checkpoint, tmp_path):
    options = (f"checkpoint={bundle[0]}", "rounds=3", "warmup=1", "run_dir=here")
    for budget, code in ((1e-6, 1), (1e9, 0)):
        ran = command("benchmark", *options, f"budget_ms={budget}", cwd=tmp_path)
        assert ran.code == code, ran.out
        assert ("NOT kept" in ran.out) == bool(code)
    found = json.loads((tmp_path / "here" / "benchmark.json").read_text())
    assert list(found["stages"]) == ["decode", "validity", "resize", "network", "post", "whole"]
    assert found["machine"]["cpus"] >= 1
    parts = sum(row["p50_ms"] for stage, row in found["stages"].items() if stage != "whole")
    assert 0 < parts < 3 * found["stages"]["whole"]["p50_ms"]
    both = (f"checkpoint={checkpoint}", f"bundle={bundle[0]}", "batch_size=2")
    ran = command("benchmark", *both, *options[1:], cwd=tmp_path)
    assert ran.code == 0, ran.out
    ratios = json.loads((tmp_path / "here" / "benchmark.json").read_text())["ratios"]
    assert [len(rows) for rows in ratios.values()] == [6, 3]
    assert ratios["2"]["backbone alone, torch"]["ratio"] == 1
    ran = command("benchmark", f"checkpoint={checkpoint}", cwd=tmp_path)
    assert ran.code == 1
    assert "Expected input=" in ran.out


def test_stages_are_summed_for_each_image():
    watch = Stopwatch()
    watch.image(lambda: [watch("network", lambda: time.sleep(0.002)) for _ in range(3)])
    watch.image(lambda: watch("decode", lambda: None))
    tiles, none = watch.images
    assert set(tiles) == {"network", "whole"}
    assert 6 <= tiles["network"] <= tiles["whole"]
    assert set(none) == {"decode", "whole"}


def test_a_threshold_keeps_its_place_among_other_values():
    before = np.arange(1000) / 1000
    assert cost.moved(0.9, before, 3 * before) == pytest.approx(2.7, abs=0.01)
    assert cost.moved(1.998, before, 3 * before) == pytest.approx(3 * 1.998), "beyond the largest, as that moves"


def test_what_a_precision_may_cost():
    def metrics(auroc, aupro=None):
        return {"auroc": {"checkpoint": 0.95, "exported": auroc}, "aupro": {"checkpoint": 0.9, "exported": aupro}}

    parity = Parity(images=10, flips={"a": ["OK", "NG"]})
    cost.check(metrics(0.945), parity, "int8", 0.01)
    cost.check(metrics(0.99, 0.95), parity, "int8", 0.01)
    with pytest.raises(ExportError, match=r"AUROC falls from 0\.950 to 0\.930; AUPRO falls from 0\.900 to 0\.500"):
        cost.check(metrics(0.93, 0.5), parity, "int8", 0.01)
    cost.check(None, parity, "int8", 0.1)
    with pytest.raises(ExportError, match=r"10\.0% of the decisions differ, and no labels say"):
        cost.check(None, parity, "int8", 0.05)


@pytest.mark.slow
def test_int8_has_thresholds_of_its_own(bundle, checkpoint, tmp_path):
    options = (f"checkpoint={checkpoint}", "output=there", "precision=int8")
    ran = command("export", *options, "quantise.tolerance=1", cwd=tmp_path)
    assert ran.code == 0, ran.out
    ours, theirs = (json.loads((folder / "bundle.json").read_text()) for folder in (bundle[0], tmp_path / "there"))
    assert theirs["precision"] == "int8"
    known, found = ours["card"]["thresholds"], theirs["card"]["thresholds"]
    assert found["score"] == pytest.approx(known["score"], rel=0.3)
    assert found["score"] != known["score"]
    assert len(found["scores"]) == len(known["scores"]) == 3
    assert "Calibrated again" in found["promise"]["rests_on"][-1]
    parity = json.loads((tmp_path / "there" / "parity.json").read_text())
    assert parity["metrics"]["auroc"]["checkpoint"] == 1.0
    kinds = {node.op_type for node in onnx.load(tmp_path / "there" / "model.onnx").graph.node}
    assert "DequantizeLinear" in kinds
    shutil.rmtree(tmp_path / "there")
    ran = command("export", *options, "quantise.tolerance=-1", cwd=tmp_path)
    assert ran.code == 1
    assert "costs too much" in flat(ran.out)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_fp16_stores_the_backbone_in_half(checkpoint, tmp_path):
    ran = command("export", f"checkpoint={checkpoint}", "output=there", "precision=fp16", cwd=tmp_path)
    assert ran.code == 0, ran.out
    weights = [values.data_type for values in onnx.load(tmp_path / "there" / "model.onnx").graph.initializer]
    assert onnx.TensorProto.FLOAT16 in weights
    assert onnx.TensorProto.FLOAT in weights


def convolutions(names):
    """A graph of one convolution after another, each with a ReLU, whose weights have these names."""
    weights = [onnx.numpy_helper.from_array(np.full((3, 3, 1, 1), 0.1, np.float32), name) for name in names]
    nodes = []
    for number, name in enumerate(names):
        given = f"relu{number - 1}" if number else "images"
        nodes.append(onnx.helper.make_node("Conv", [given, name], [f"conv{number}"], f"conv{number}"))
        nodes.append(onnx.helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"], f"relu{number}"))
    sides = (("images", ["B", 3, 4, 4]), (nodes[-1].output[0], ["B", 3, 4, 4]))
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in sides]
    graph = onnx.helper.make_graph(nodes, "toy", values[:1], values[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


COARSER = [f"model.{name}.weight" for name in ("extractor.backbone.a", "extractor.backbone.b", "localiser")]


def test_fp16_takes_the_backbone_and_nothing_else():
    made = precision.half(convolutions(COARSER))
    onnx.checker.check_model(made, full_check=True)
    kinds = {values.name.removesuffix("_half"): values.data_type for values in made.graph.initializer}
    half, whole = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert kinds == dict(zip(COARSER, (half, half, whole), strict=True))


def test_int8_takes_the_backbone_and_nothing_else():
    normals = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)
    made = precision.quantised(convolutions(COARSER), normals)
    rounded = {name for node in made.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolved = [node for node in made.graph.node if node.op_type == "Conv"]
    assert [node.input[1] in rounded for node in convolved] == [True, True, False]


@pytest.mark.parametrize("make", [precision.half, lambda proto: precision.quantised(proto, [])])
def test_a_model_without_a_backbone_is_not_exported_in_fewer_bits(make):
    with pytest.raises(ExportError, match="no backbone"):
        make(convolutions(["model.detector.weight"]))


def test_a_bundle_is_replaced_through_a_link(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "bundle.json").write_text("old")
    (tmp_path / "current").symlink_to("one")
    with bundling.staged(tmp_path / "current", overwrite=True) as making:
        (making / "bundle.json").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "one"]
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "one" / "bundle.json").read_text() == "new"


def test_the_benchmark_takes_the_references_of_a_version(bundle, tmp_path):
    latest = f"checkpoint={bundle[0]}@latest"
    ran = command("benchmark", latest, "rounds=2", "warmup=0", f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert json.loads((tmp_path / "benchmark.json").read_text())["images"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("checkpoint=nowhere",), "nowhere is no model: expected a file that ends in .ckpt"),
        (("checkpoint={bundle}", "rounds=0"), "rounds=0 warmup=10: expected 1 image or more"),
        (("checkpoint={bundle}", "warmup=-1"), "rounds=100 warmup=-1: expected 1 image or more"),
    ],
)
def test_mistakes_of_a_benchmark_are_one_paragraph(bundle, tmp_path, words, said):
    ran = command("benchmark", *(word.format(bundle=bundle[0]) for word in words), cwd=tmp_path)
    assert ran.code == 1
    assert said in flat(ran.out)
    assert "Traceback" not in ran.out


@pytest.mark.slow
def test_memory_stays_flat(bundle, root):
    """Resident memory after 1,200 images is that after 400, but for 2 MB."""
    inspect = Inspector.load(bundle[0], threads=1)
    images = images_in(root / "widget" / "test", recursive=True)
    resident = []
    for number in range(1200):
        said = inspect(images[number % len(images)])
        _ = (said.regions, said.heatmap())
        if number in (399, 1199):
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert resident[1] - resident[0] < 2_000_000


@pytest.mark.parametrize("name", ["model.onnx", "parity.json", "LICENSES"])
def test_a_changed_file_is_refused(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is not the file that was exported: expected sha256 [0-9a-f]{{64}}"):
        Inspector.load(copied)


def rewritten(folder, **changes):
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 99}, "expected a bundle of schema 1, got 99"),
        ({"version": "99.0.0"}, "written by anomaly_lightning 99.0.0, this is .*: update"),
        ({"version": "new"}, "expected a version like"),
        ({"files": {}}, "lists no model.onnx"),
        ({"files": {"../secret": "0"}}, "lies outside the bundle"),
        ({"files": {"/etc/passwd": "0"}}, "lies outside the bundle"),
        ({"format": "pickle"}, "bundle.json is damaged: Invalid enum value 'pickle'"),
        ({"surprise": 1}, "damaged: Object contains unknown field `surprise`"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied, changes, words):
    rewritten(copied, **changes)
    with pytest.raises(BundleError, match=words):
        Inspector.load(copied)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, copied):
    with pytest.raises(BundleError, match=r"is no bundle: it holds no bundle\.json"):
        Inspector.load(tmp_path)
    (copied / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: No such file"):
        Inspector.load(copied)
    (copied / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        Inspector.load(copied)


def test_a_folder_in_the_place_of_a_model_is_told_what_it_is(bundle, run_folder):
    with pytest.raises(BundleError, match=r"the folder of a run, whose model is .*checkpoints.best\.ckpt"):
        Inspector.load(run_folder)
    for folder, what in ((bundle[0], "a bundle"), (run_folder, "a folder")):
        with pytest.raises(CheckpointError, match=rf"is {what}\. Expected a checkpoint: .*best\.ckpt"):
            load_model(folder)


def test_another_graph_than_the_cards_is_refused(copied):
    values = json.loads((copied / "bundle.json").read_text())
    values["card"]["transform"]["size"] = [32, 32]
    rewritten(copied, card=values["card"])
    with pytest.raises(BundleError, match=r"expected one input images \(B, 3, 32, 32\)"):
        Inspector.load(copied)


def test_a_device_that_is_not_there_is_told(bundle):
    there = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in there:
        with pytest.raises(UserError, match=r"device=cuda can't be used here: this onnxruntime has .*cpu"):
            Inspector.load(bundle[0], "cuda")
    with pytest.raises(UserError, match="device=tpu: expected one of auto, cpu, cuda, tensorrt, openvino"):
        Inspector.load(bundle[0], "tpu")
    with pytest.raises(UserError, match="threads=0"):
        Inspector.load(bundle[0], threads=0)


def test_what_is_there_is_not_overwritten_unasked(bundle, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    for options in ((), ("overwrite=true",)):  # a folder that is no bundle is never replaced
        ran = command("export", f"checkpoint={checkpoint}", "output=mine", *options, cwd=tmp_path)
        assert ran.code == 1
        assert "exists already: choose a folder that does not exist yet" in flat(ran.out)
    shutil.copytree(bundle[0], tmp_path / "bundle")
    (tmp_path / "bundle" / "old").touch()
    known = (bundle[0] / "model.onnx").read_bytes()
    monkeypatch.setattr(exporting, "packed", lambda _: known)
    monkeypatch.setattr(exporting, "to_onnx", lambda *_: None)
    ran = command("export", f"checkpoint={checkpoint}", "output=bundle", "overwrite=true", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert not (tmp_path / "bundle" / "old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "mine"]


def test_an_export_that_is_not_equal_keeps_nothing(bundle, checkpoint, tmp_path, monkeypatch):
    """A graph with other weights, by a thousandth."""
    model = onnx.load(bundle[0] / "model.onnx")
    weights = max(model.graph.initializer, key=lambda values: len(values.raw_data) * (values.data_type == 1))
    weights.raw_data = (1.001 * np.frombuffer(weights.raw_data, np.float32)).tobytes()
    other = model.SerializeToString()
    monkeypatch.setattr(exporting, "packed", lambda _: other)
    monkeypatch.setattr(exporting, "to_onnx", lambda *_: None)
    ran = command("export", f"checkpoint={checkpoint}", "output=there", cwd=tmp_path)
    assert ran.code == 1
    assert "is not equal to the checkpoint on 12 images: the score of" in flat(ran.out)
    assert not list(tmp_path.iterdir())


def said(score, level=0.0, threshold=1.0):
    maps = np.full((4, 6), level, np.float32)
    return Inspection(Image.new("RGB", (6, 4)), score, maps, threshold, 0.5)


def test_what_counts_as_equal():
    found = Parity()
    found.add("a", said(0.5, 0.1), said(0.50002, 0.1))
    assert found.score == (pytest.approx(4e-5), "a")
    found.check("fp32")
    found.add("b", said(1.00006, 0.1), said(1.00014, 0.1))
    with pytest.raises(ExportError, match="1 decisions differ, the first is b: OK became NG"):
        found.check("fp32")
    found = Parity()
    found.add("c", said(0.5, 0.4), said(0.5, 0.6))
    assert (found.mask_pixels, found.map) == (1.0, (pytest.approx(0.4), "c"))
    with pytest.raises(ExportError, match=r"the map of c differs by 0\.4"):
        found.check("fp16")
    with pytest.raises(ExportError, match="not finite"):
        found.add("d", said(float("nan")), said(0.5))


def test_a_difference_in_a_map_is_seen_against_the_maps_peak_or_the_pixel_threshold():
    found = Parity()
    found.add("dark", said(0.5, 0.0), said(0.5, 0.5 * 3e-5))
    assert found.map == (pytest.approx(3e-5), "dark")
    found.check("fp32")
    found.add("bright", said(0.5, 0.8), said(0.5, 0.8 * (1 + 9e-5)))
    assert found.map == (pytest.approx(9e-5, rel=0.01), "bright")
    found.check("fp32")
    found.add("darker", said(0.5, 0.0), said(0.5, 0.5 * 1.1e-4))
    with pytest.raises(ExportError, match="the map of darker differs by"):
        found.check("fp32")


def test_maps_of_rounded_features_can_be_told_apart_by_a_rounding_step_alone():
    found = Parity()
    found.add("a", said(0.5, 0.8), said(0.5, 0.8 * (1 + 3e-4)))
    found.check("fp32", "float16")
    with pytest.raises(ExportError, match=r"the map of a differs by 0\.0003 \(at most 0\.0001\)"):
        found.check("fp32", "float32")
    found.add("b", said(0.5, 0.4), said(0.5 * (1 + 3e-4), 0.4))
    with pytest.raises(ExportError, match=r"the score of b differs by 0\.0003 \(at most 0\.0001\)"):
        found.check("fp32", "float16")


def test_square_images_are_also_shown_cut(tmp_path, bundle, checkpoint):
    rng = np.random.default_rng(1)
    paths = [save(texture(rng, 70, 70), tmp_path / f"{number}.png") for number in range(5)]
    found = compare(Inspector.load(checkpoint, "cpu"), Inspector.load(bundle[0]), paths)
    assert found.images == 9
    assert found.sizes == {(70, 70), (70, 52)}


@pytest.mark.parametrize("path", test_contract.MODELS, ids=[path.stem for path in test_contract.MODELS])
def test_every_detector_is_traced_with_a_free_batch(path):
    shape = (12, 8, 6)
    detector = test_contract.fit(test_contract.build(path, shape), test_contract.normals(8, shape))

    class Errors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = detector

        def forward(self, features):
            return self.detector.error_map(features)

    free = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        traced = torch.export.export(Errors(), (test_contract.normals(2, shape),), dynamic_shapes=free, strict=False)
        for count in (1, 5):
            features = test_contract.normals(count, shape, seed=3)
            torch.testing.assert_close(traced.module()(features), detector.error_map(features), rtol=1e-4, atol=1e-5)


def test_a_backbone_in_other_arithmetic_is_not_exported(checkpoint):
    model, card = load_model(checkpoint)
    model.extractor.precision.name = "bf16"
    with pytest.raises(ExportError, match=r"features\.precision=bf16.*Train with features\.precision=32"):
        to_onnx(model, card.transform.size)


def test_an_unknown_format_or_precision_is_told(checkpoint, tmp_path):
    for option, words in (
        ("format=torchscript", "expected one of onnx"),
        ("precision=int4", "fp32, fp16, int8"),
        ("references=-2", "references=-2: expected 0 or more"),
        ("parity.limit=0", "parity.limit=0: expected 1 image or more"),
    ):
        ran = command("export", f"checkpoint={checkpoint}", "output=there", option, cwd=tmp_path)
        assert ran.code == 1
        assert words in flat(ran.out)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_detector_on_a_real_backbone(name, root, tmp_path):
    options = (*LITE, *MODELS[name], *BARE, "trainer.accelerator=cpu", "bootstrap=0", "data.workers=0")
    where = ("category=custom", "category.name=widget", f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}")
    ran = command("train", *options, *where, cwd=tmp_path)
    assert ran.code == 0, ran.out
    if name not in ("region",):
        odd_images(tmp_path / "odd")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    ran = command("export", f"checkpoint={checkpoint}", "output=bundle", cwd=tmp_path)
    assert ran.code == 0, ran.out
    if (tmp_path / "odd").is_dir():
        ours, theirs = Inspector.load(checkpoint, "cpu"), Inspector.load(tmp_path / "bundle")
        compare(ours, theirs, images_in(tmp_path / "odd")).check("fp32", ours.card.features.dtype)
    model = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx").get_inputs()[0]
    assert model.shape[1:] == [3, *load_model(checkpoint)[1].transform.size]
    assert isinstance(model.shape[0], str), "the batch axis is free"
