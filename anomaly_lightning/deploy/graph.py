"""An `AnomalyModel` as one ONNX file: fixed height and width, a free batch axis, thresholds outside."""

import onnx
import torch
from torch import Tensor, nn

from anomaly_lightning.deploy.quiet import quiet
from anomaly_lightning.errors import ExportError
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.runtime.bundle import INPUT, OUTPUTS

OPSET = 18
EXAMPLE = 2  # images of the batch that is traced: 1 would be taken for a constant


class _Outputs(nn.Module):
    """The model with all that a bundle's graph gives."""

    def __init__(self, model: AnomalyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (B, H, W), scores (B,) and error maps (B, h, w), float32, of images (B, 3, H, W) float32."""
        return self.model.inspected(images)


def to_onnx(model: AnomalyModel, size: tuple[int, int]) -> onnx.ModelProto:
    """Graph of a fitted model for images of `size` (H, W), in float32.

    torch.export's graph has a third of the nodes that the older tracer's has, and runs faster in onnxruntime; it takes
    10 to 40 s to make, not 1 to 3.

    Raises:
        ExportError: The features are computed in another arithmetic than float32, or the model can't be traced.
    """
    if model.extractor.precision.name != "32":
        raise ExportError(
            f"features.precision={model.extractor.precision.name}: the exported file would compute in float32, and "
            "decisions could change. Train with features.precision=32 to export."
        )
    model.pack(False)
    whole = _Outputs(model).eval().cpu()
    example = torch.zeros(EXAMPLE, 3, *size)
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(
                whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # whatever the tracer met, it is the detector's or backbone's code that it met
            raise ExportError(f"{_named(model)} can't be traced for export: {_first_line(error)}") from error
    assert made is not None
    proto = made.model_proto
    proto.graph.name = "anomaly_model"
    onnx.checker.check_model(proto)
    return proto


def packed(proto: onnx.ModelProto) -> bytes:
    """Bytes of a graph, without what the exporter notes of where each node came from: stack traces with local paths."""
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    graph = lean.graph
    for part in (lean, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    content: bytes = lean.SerializeToString()
    return content


def _named(model: AnomalyModel) -> str:
    return f"{type(model.detector).__name__} on {model.extractor.backbone.name}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
