"""Runs an exported model with onnxruntime: no torch, and nothing but the file's known operators."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from anomaly_lightning.errors import BundleError, UserError
from anomaly_lightning.runtime.bundle import ERROR_MAP, INPUT, MAP, SCORE, Bundle
from anomaly_lightning.runtime.engines import wanted_threads

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class OnnxEngine:
    """Computes maps and scores with onnxruntime.

    Args:
        bundle: Of the format "onnx".
        device: "auto" (CUDA where this onnxruntime has it, else the CPU), "cpu", "cuda", "tensorrt" or "openvino".
        threads: For one forward on the CPU; None = $OMP_NUM_THREADS, else one a core.

    Raises:
        BundleError: onnxruntime can't read the model.
        UserError: There is no such device here.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = wanted_threads(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A thread that spins while it waits takes the core from whoever decodes the next image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = _providers(device)
        where = bundle.folder / "model.onnx"
        try:
            # From bytes: no second look at the disk, and no data outside the file that was hashed.
            self._session = onnxruntime.InferenceSession(bundle.model[0], options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise BundleError(f"{where}: onnxruntime {onnxruntime.__version__} can't run it: {error}") from error
        used = self._session.get_providers()
        if used[0] != providers[0]:  # it falls back to the CPU without an error
            raise UserError(
                f"device={device} can't be used here: onnxruntime took {used[0]} in place of {providers[0]}."
            )
        _check_interface(self._session, bundle, where)

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps (B, H, W) and scores (B,), float32, of images (B, 3, H, W) float32."""
        maps, scores = self._session.run([MAP, SCORE], {INPUT: images})
        return maps, scores

    def error_maps(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Error maps (B, h, w) and scores (B,), float32, of images (B, 3, H, W) float32."""
        maps, scores = self._session.run([ERROR_MAP, SCORE], {INPUT: images})
        return maps, scores


def _providers(device: str) -> list[str]:
    """Execution providers to ask for, the CPU last: it takes the operators that another lacks."""
    there = onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in there else "cpu"
    name = PROVIDERS.get(device)
    if name is None:
        raise UserError(f"device={device}: expected one of auto, {', '.join(PROVIDERS)} for an exported model.")
    if name not in there:
        known = ", ".join(key for key, value in PROVIDERS.items() if value in there)
        raise UserError(
            f"device={device} can't be used here: this onnxruntime has {known}. Another build of it brings more "
            "(onnxruntime-gpu for cuda and tensorrt, onnxruntime-openvino for openvino)."
        )
    return list(dict.fromkeys([name, PROVIDERS["cpu"]]))


def _check_interface(session: Any, bundle: Bundle, where: Path) -> None:
    """Raise `BundleError` where the graph is not one of what the card describes."""
    height, width = bundle.manifest.card.transform.size
    (image, *more), outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    expected = [3, height, width]
    if more or image.name != INPUT or list(image.shape[1:]) != expected or not {MAP, SCORE} <= set(outputs):
        raise BundleError(
            f"{where}: expected one input {INPUT} (B, {', '.join(map(str, expected))}) and the outputs {MAP} and "
            f"{SCORE}; got {image.name} {image.shape} and {', '.join(outputs)}. Export it again."
        )
