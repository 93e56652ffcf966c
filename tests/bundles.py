"""A bundle made by hand: its network is the red channel. Needs neither a training nor torch."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from toy import card, save

from anomaly_lightning import __version__
from anomaly_lightning.runtime.bundle import BUNDLE_SCHEMA, INPUT, OUTPUTS, Manifest, sha256
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.transform import ImageTransform

HEIGHT, WIDTH = 20, 30


def _graph(work: int) -> onnx.ModelProto:
    """The red channel in [0, 1] as map, its largest value as score; `work` makes it slow and leaves it as it is."""
    nodes = [
        helper.make_node("Gather", [INPUT, "red"], ["channel"], axis=1),
        helper.make_node("ReduceMean", [INPUT, "all"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["matrix", "mean"], ["product0"]),
        *(helper.make_node("MatMul", [f"product{i}", "matrix"], [f"product{i + 1}"]) for i in range(work)),
        helper.make_node("ReduceMax", [f"product{work}"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["channel", "nothing"], [OUTPUTS[0]]),
        helper.make_node("ReduceMax", [OUTPUTS[0], "plane"], [OUTPUTS[1]], keepdims=0),
        helper.make_node("Identity", [OUTPUTS[0]], [OUTPUTS[2]]),
    ]
    side = 700 if work else 1
    constants = {
        "red": np.array(0, np.int64),
        "all": np.array([0, 1, 2, 3], np.int64),
        "plane": np.array([1, 2], np.int64),
        "matrix": np.full((side, side), 1 / side, np.float32),
        "zero": np.array(0, np.float32),
    }
    shapes = {OUTPUTS[0]: ["B", HEIGHT, WIDTH], OUTPUTS[1]: ["B"], OUTPUTS[2]: ["B", HEIGHT, WIDTH]}
    graph = helper.make_graph(
        nodes,
        "redness",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_bundle(folder: Path, work: int = 0) -> Path:
    """Write a bundle: NG where something is redder than half, images of 20 x 30."""
    folder.mkdir(parents=True)
    model = _graph(work).SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    made = card(ImageTransform((HEIGHT, WIDTH), (0, 0, 0), (1, 1, 1)), thresholds=ThresholdsCard(score=0.5, pixel=0.4))
    manifest = Manifest(
        schema=BUNDLE_SCHEMA,
        version=__version__,
        format="onnx",
        precision="fp32",
        input=INPUT,
        outputs=OUTPUTS,
        card=made,
        files={"model.onnx": sha256(model)},
    )
    (folder / "bundle.json").write_text(json.dumps(manifest.to_dict()))
    return folder


def spotted(number: int) -> np.ndarray:
    """(20, 30, 3) uint8, another for each number: grey noise, and in every third a red spot of some level."""
    rng = np.random.default_rng(number)
    values = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if number % 3 == 0:
        values[4:9, 20:27, 0] = rng.integers(140, 255)
    return values


def make_images(folder: Path, count: int) -> Path:
    """Write <folder>/<hundreds>/<number>.png, all different."""
    for number in range(count):
        save(spotted(number), folder / f"{number // 100}" / f"{number:04d}.png")
    return folder
