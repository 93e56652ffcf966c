"""Frames through OpenCV: how they are had, and what its absence or refusal means. OpenCV is imported here alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.deploy.line.sources import SourceLostError
from anomaly_lightning.errors import MissingExtraError


def opencv() -> Any:
    """The module cv2.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("this source", "opencv-python-headless", "line") from error
    return cv2


class Frames:
    """An open video, stream or camera: a context that closes it.

    Args:
        what: File, address or number of a device.
        backend: Name of OpenCV's: "CAP_FFMPEG", "CAP_V4L2", "CAP_ANY".
        options: Names of OpenCV's properties, set when it is opened.

    Raises:
        SourceLostError: It can't be opened now.
    """

    def __init__(self, what: str | int, backend: str, options: Mapping[str, int] | None = None) -> None:
        cv2 = opencv()
        self.what, self._cv2 = what, cv2
        given = [number for name, value in (options or {}).items() for number in (getattr(cv2, name), value)]
        self._capture = cv2.VideoCapture(what, getattr(cv2, backend), given)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceLostError(f"{what} can't be opened: it is not there, is in use, or is no video.")

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def grab(self) -> bool:
        """Go on to the next frame without decoding it; False at the end, or where the connection is lost."""
        return bool(self._capture.grab())

    def read(self) -> NDArray[np.uint8] | None:
        """The frame that was grabbed: (H, W, 3) uint8 in RGB order; None where it is damaged."""
        good, frame = self._capture.retrieve()
        if not good or frame is None:
            return None
        converted: NDArray[np.uint8] = self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        return converted

    def get(self, name: str) -> float:
        """A property of OpenCV's, by its name."""
        return float(self._capture.get(getattr(self._cv2, name)))
