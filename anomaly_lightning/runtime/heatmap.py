"""Anomaly maps as images for people: the only place where values are scaled or clipped."""

import base64
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.runtime.decision import exceeds

TRUTH, PREDICTED = (255, 255, 255), (255, 0, 255)
# The 256 colours of matplotlib's turbo (Mikhailov 2019, Apache-2.0), red, green and blue each as steps from its start.
_STEPS = (
    b"c-m!>K@!6t2t^f5?7AoEzW2XXA_YFEjUR+bCc%gJ$(gb%AxKIZQ?eCeaj2`QchB-{(r@g4sYyhIim8^W?kWgkCQ|ocrf!S0h*kn(0-"
    b"IB@Ei>j6T(%~jA>IgP>O+_MJ0M1)fZEX(GtLJthy&P<m2j*RKd(nR8tD9lkBA14_a=rq7QUL|bx0jM#JE)7_G+!2YNF#jOtl^uTJi3^Ex?"
    b"0!;teY7f8*u<IbWV9uHy+!!p+f<`T@lS9Cwhh>!LC2*-&S{3n=JCIWEgCDg6URU1*R"
)
TURBO = np.frombuffer(zlib.decompress(base64.b85decode(_STEPS)), np.uint8).reshape(3, 256).cumsum(1, np.uint8).T


def scaled(anomaly_map: NDArray[np.float32], pixel_threshold: float) -> NDArray[np.float32]:
    """Anomaly map (H, W) float as (H, W) float32 in [0, 1], with the pixel threshold at one half.

    The scale is anchored at the threshold alone, so that a colour means the same on every image of a model.
    """
    if not pixel_threshold > 0:
        return np.zeros_like(anomaly_map, np.float32)
    return (anomaly_map / np.float32(2 * pixel_threshold)).clip(0, 1)


def levels(anomaly_map: NDArray[np.float32], pixel_threshold: float) -> NDArray[np.uint8]:
    """Which of the colours `TURBO` each pixel of an anomaly map (H, W) float has: (H, W) uint8."""
    steps = scaled(anomaly_map, pixel_threshold) * 256
    return np.minimum(steps.astype(np.intp), 255).astype(np.uint8)


def heatmap(anomaly_map: NDArray[np.float32], pixel_threshold: float) -> NDArray[np.uint8]:
    """Colours of an anomaly map (H, W) float: (H, W, 3) uint8."""
    return TURBO[levels(anomaly_map, pixel_threshold)]


def overlay(
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    pixel_threshold: float,
    mask: NDArray[np.bool_] | None = None,
    truth: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Image with its heatmap on it, stronger where the error is larger: (H, W, 3) uint8.

    Args:
        image: RGB, W x H.
        anomaly_map: (H, W) float in the image's pixels.
        pixel_threshold: Where the scale has its middle.
        mask: (H, W) bool, the predicted one, whose outline is drawn in magenta; None = all above the pixel threshold.
        truth: (H, W) bool, the defect's mask; its outline is drawn in white.
    """
    base = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    strength = scaled(anomaly_map, pixel_threshold)[..., None] ** 0.5
    opacity = 0.15 + 0.55 * strength
    blended = ((1 - opacity) * base + opacity * heatmap(anomaly_map, pixel_threshold)).astype(np.uint8)
    if pixel_threshold > 0:
        blended[outline(exceeds(anomaly_map, pixel_threshold) if mask is None else mask)] = PREDICTED
    if truth is not None and truth.shape == blended.shape[:2]:
        blended[outline(truth)] = TRUTH
    return blended


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Border pixels of a mask (H, W) bool, inside it: (H, W) bool; wider on large images, so that it is seen."""
    inner = mask
    for _ in range(max(1, round(min(mask.shape) / 300))):
        inner = _eroded(inner)
    return mask & ~inner


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) bool without its pixels beside others; what lies beyond the image's edge counts as mask."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner
