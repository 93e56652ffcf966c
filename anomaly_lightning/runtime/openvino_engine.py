"""Runs an exported model with OpenVINO: no torch, and nothing but the files' known operators."""

import numpy as np
import openvino
from numpy.typing import NDArray

from anomaly_lightning.errors import BundleError, UserError
from anomaly_lightning.runtime.bundle import ERROR_MAP, INPUT, MAP, OUTPUTS, SCORE, Bundle
from anomaly_lightning.runtime.engines import wanted_threads


class OpenVinoEngine:
    """Computes maps and scores with OpenVINO, in float32 whatever the device would prefer.

    Args:
        bundle: Of the format "openvino".
        device: "auto" or "cpu" (the CPU), or another of OpenVINO's devices: "gpu", "npu".
        threads: For one forward on the CPU; None = $OMP_NUM_THREADS, else one a core.

    Raises:
        BundleError: OpenVINO can't read the model, or it is not one of what the card describes.
        UserError: There is no such device here.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int | None = None) -> None:
        core, where = openvino.Core(), bundle.folder / "model.xml"
        name = "CPU" if device == "auto" else device.upper()
        if name.partition(".")[0] not in {known.partition(".")[0] for known in core.available_devices}:
            there = ", ".join(known.lower() for known in core.available_devices)
            raise UserError(f"device={device} can't be used here: OpenVINO finds {there}.")
        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if name == "CPU" and (count := wanted_threads(threads)):
            options["INFERENCE_NUM_THREADS"] = count
        try:
            # From bytes: no second look at the disk after the files were held against their hashes.
            graph, weights = bundle.model
            model = core.read_model(graph, openvino.Tensor(np.frombuffer(weights, np.uint8)))
            self._model = core.compile_model(model, name, options)
        except RuntimeError as error:
            raise BundleError(f"{where}: OpenVINO {openvino.__version__} can't run it: {error}") from error
        height, width = bundle.manifest.card.transform.size
        inputs = [str(entry.partial_shape) for entry in model.inputs]
        found = {str(output.any_name) for output in model.outputs}
        if inputs != [f"[?,3,{height},{width}]"] or not set(OUTPUTS) <= found:
            raise BundleError(
                f"{where}: expected one input {INPUT} [?,3,{height},{width}] and the outputs {', '.join(OUTPUTS)}; got "
                f"{', '.join(inputs)} and {', '.join(sorted(found))}. Export it again."
            )

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps (B, H, W) and scores (B,), float32, of images (B, 3, H, W) float32."""
        said = self._model({INPUT: images})
        return said[MAP], said[SCORE]

    def error_maps(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Error maps (B, h, w) and scores (B,), float32, of images (B, 3, H, W) float32."""
        said = self._model({INPUT: images})
        return said[ERROR_MAP], said[SCORE]
