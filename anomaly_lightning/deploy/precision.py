"""The exported graph in less than float32: the backbone alone, because errors are differences of small numbers."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from anomaly_lightning.runtime.bundle import INPUT

_SCOPES, _BACKBONE = "pkg.torch.onnx.name_scopes", "'model.extractor'"


def backbone_nodes(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that torch's exporter made of the frozen backbone and the pooling of its layers."""
    scopes = {node.name: {entry.key: entry.value for entry in node.metadata_props} for node in proto.graph.node}
    return [name for name, known in scopes.items() if _BACKBONE in known.get(_SCOPES, "")]


def half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its backbone in float16; inputs, detector and outputs stay in float32."""
    inside = set(backbone_nodes(proto))
    others = [node.name for node in proto.graph.node if node.name not in inside]
    converted: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True, node_block_list=others)
    return converted


class _Normals(CalibrationDataReader):
    """Network inputs (3, H, W) one by one, as onnxruntime's calibration wants them."""

    def __init__(self, planes: Iterable[NDArray[np.float32]]) -> None:
        self._planes = iter(planes)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input; None at the end."""
        planes = next(self._planes, None)
        return None if planes is None else {INPUT: planes[None]}


def quantised(proto: onnx.ModelProto, normals: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """The graph with its backbone's convolutions in int8 (QDQ), their ranges from training normals.

    Activations are uint8, weights int8 of 7 bits: without VNNI a processor adds products in 16 bits, which 8 bits
    overflow. The detector, and whatever makes an output, stays in float32.

    Args:
        proto: As `to_onnx` makes it.
        normals: (3, H, W) float32 each, as `ImageTransform` makes them.
    """
    with tempfile.TemporaryDirectory() as place, _quiet():
        given, prepared, made = (Path(place) / f"{name}.onnx" for name in ("given", "prepared", "made"))
        onnx.save(proto, given)
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        whole = onnx.load(prepared)
        known = set(backbone_nodes(proto))
        chosen = [node.name for node in whole.graph.node if node.op_type == "Conv" and node.name in known]
        quantize_static(
            str(prepared),
            str(made),
            _Normals(normals),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # What leaves a convolution is rounded only where it enters the next: features and residual sums stay whole.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
        return onnx.load(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What onnxruntime's tools print is about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
