"""The exported graph in less than float32: the backbone alone, because errors are differences of small numbers."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from anomaly_lightning.deploy.quiet import quiet
from anomaly_lightning.errors import ExportError
from anomaly_lightning.runtime.bundle import INPUT

_SCOPES, _BACKBONE = "pkg.torch.onnx.name_scopes", "model.extractor"


def backbone_nodes(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes of the frozen backbone, and of all that lead to one of them.

    Torch's exporter notes at a node in which modules it was made, but for those of a traced network that is part of
    another; there the weights tell, which in turn lose their names where they are transposed. A vector tells nothing,
    because the exporter keeps equal ones once.

    Raises:
        ExportError: There is none, as where a detector sees images.
    """
    weights = [values.name for values in proto.graph.initializer if len(values.dims) > 1]
    own = {name for name in weights if name.startswith(f"{_BACKBONE}.")}
    found, wanted = list[str](), set[str]()
    for node in reversed(proto.graph.node):  # in an ONNX graph no node stands before one that it reads
        scopes = "".join(entry.value for entry in node.metadata_props if entry.key == _SCOPES)
        if f"'{_BACKBONE}" in scopes or own.intersection(node.input) or wanted.intersection(node.output):
            found.append(node.name)
            wanted.update(node.input)
    if not found:
        raise ExportError("This model has no backbone to compute in fewer bits. Export with precision=fp32.")
    return found[::-1]


def half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its backbone in float16; input, detector and outputs stay in float32.

    onnxruntime's own converter passes the values between nodes that it is to leave alone through float16, where the
    squares of errors overflow; here the backbone's tensors are cast once where they enter and once where they leave.
    """
    made = onnx.shape_inference.infer_shapes(proto)
    graph, inside = made.graph, set(backbone_nodes(proto))
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    weights = {values.name: values for values in graph.initializer if values.data_type == TensorProto.FLOAT}
    floats = {name for name, kind in known.items() if kind == TensorProto.FLOAT} | set(weights)
    produced = {name for node in graph.node if node.name in inside for name in node.output} & floats
    entering, nodes = dict[str, str](), list[onnx.NodeProto]()
    for node in graph.node:
        if node.name in inside:
            for place, name in enumerate(node.input):
                if name in floats and name not in produced:
                    entering.setdefault(name, f"{name}_half")
                    node.input[place] = entering[name]
        else:
            for place, name in enumerate(node.input):
                if name in produced:
                    node.input[place] = f"{name}_whole"
        nodes += [node, *(_cast(name, f"{name}_whole", TensorProto.FLOAT) for name in node.output if name in produced)]
    for name, other in entering.items():
        if name in weights:
            values = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
            graph.initializer.append(onnx.numpy_helper.from_array(values, other))
    casts = [_cast(name, other, TensorProto.FLOAT16) for name, other in entering.items() if name not in weights]
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*casts, *nodes])
    _drop_unused(graph)
    return made


def _cast(name: str, other: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [name], [other], f"cast_{other}", to=kind)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out the weights that nothing reads any more."""
    used = {name for node in graph.node for name in node.input}
    kept = [values for values in graph.initializer if values.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


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
    with tempfile.TemporaryDirectory() as place, quiet():
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
