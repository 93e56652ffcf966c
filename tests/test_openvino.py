"""A bundle in OpenVINO's format: the scores of the ONNX bundle it comes from; tampered and foreign ones are refused."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
from test_export import bundle, odd_images  # noqa: F401
from toy import command, flat

from anomaly_lightning.deploy import bundling, exporting, parity, precision
from anomaly_lightning.errors import BundleError, UserError
from anomaly_lightning.runtime.bundle import read_bundle
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.api import fit

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra `openvino` is not installed"
)


@pytest.fixture(scope="module", autouse=True)
def streams_stay_open():
    """OpenVINO brings absl, whose log handler closes its stream, pytest's own, when Hydra sets up logging anew."""
    import openvino  # noqa: F401
    from absl import logging

    logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="module")
def converted(bundle, tmp_path_factory):  # noqa: F811
    """The session's ONNX bundle, its graph written by OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino") / "bundle"
    shutil.copytree(bundle[0], folder)
    exporting._write("openvino", folder, (folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    bundling.write_manifest(folder, read_bundle(bundle[0]).manifest.card, "openvino", "fp32")
    return folder


def test_it_scores_as_the_onnx_bundle_in_every_batch(bundle, converted, tmp_path):  # noqa: F811
    ours, theirs = Inspector.load(bundle[0], "cpu", threads=1), Inspector.load(converted, "cpu", threads=1)
    found = parity.compare(ours, theirs, odd_images(tmp_path))
    assert found.images == 4
    found.check("fp32", format="openvino")
    batch = np.random.default_rng(0).normal(size=(5, 3, 64, 48)).astype(np.float32)
    for method in ("run", "error_maps"):
        for known, values in zip(
            getattr(ours.engine, method)(batch), getattr(theirs.engine, method)(batch), strict=True
        ):
            np.testing.assert_allclose(values, known, rtol=1e-3, atol=1e-4)
    for index in range(5):
        alone = theirs.engine.run(batch[index : index + 1])[1]
        np.testing.assert_allclose(alone, theirs.engine.run(batch)[1][index : index + 1], rtol=1e-4)


def test_the_tolerance_is_that_of_the_format():
    assert parity.tolerances("fp32", "float32", "onnx") == {"score": 1e-4, "map": 1e-4}
    assert parity.tolerances("fp32", "float32", "openvino") == {"score": 5e-4, "map": 5e-4}


def test_a_quantised_graph_stays_quantised(bundle, tmp_path):  # noqa: F811
    import onnx
    import openvino

    images = np.random.default_rng(0).normal(size=(6, 3, 64, 48)).astype(np.float32)
    graph = precision.quantised(onnx.load(bundle[0] / "model.onnx"), iter(images)).SerializeToString()
    exporting._write("openvino", tmp_path, graph)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert "FakeQuantize" in {operation.get_type_name() for operation in model.get_ops()}
    by_openvino = openvino.compile_model(model, "CPU")(images)
    by_onnxruntime = onnxruntime.InferenceSession(graph).run(None, {"images": images})
    for theirs, ours in zip(by_openvino.values(), by_onnxruntime, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0.15)  # random weights; what real ones lose, an export measures


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_changed_file_is_refused(converted, tmp_path, name):
    folder = shutil.copytree(converted, tmp_path / "bundle")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{name} is not the file that was exported"):
        Inspector.load(folder)


def test_another_network_than_the_cards_is_refused(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "bundle")
    values = json.loads((folder / "bundle.json").read_text())
    values["card"]["transform"]["size"] = [32, 32]
    (folder / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"expected one input images \[\?,3,32,32\]"):
        Inspector.load(folder)


def test_a_device_that_is_not_there_is_told(converted):
    with pytest.raises(UserError, match=r"device=tpu can't be used here: OpenVINO finds .*cpu"):
        Inspector.load(converted, "tpu")


@pytest.mark.slow
def test_the_command_writes_one_and_predict_takes_it(widget, root, tmp_path):
    """Features are not rounded here: OpenVINO leaves that out, and a random network's errors are as small."""
    checkpoint = fit(*widget, "cache.dtype=float32", f"hydra.run.dir={tmp_path}/run") / "checkpoints" / "best.ckpt"
    ran = command("export", f"checkpoint={checkpoint}", "output=here", "format=openvino", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert "decisions that differ: 0" in flat(ran.out)
    ran = command("predict", "checkpoint=here", f"input={root}/widget/test", "output=decided", cwd=tmp_path)
    assert ran.code == 0, ran.out
