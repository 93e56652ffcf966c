"""Anomaly maps as images for people: the only place where values are scaled or clipped."""

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage
from torch import Tensor

COLORMAP = "turbo"
TRUTH, PREDICTED = (255, 255, 255), (255, 0, 255)


def scaled(anomaly_map: Tensor, pixel_threshold: float) -> Tensor:
    """Anomaly map (H, W) float as (H, W) float in [0, 1], with the pixel threshold at one half.

    The scale is anchored at the threshold alone, so that a colour means the same on every image of a model.
    """
    if not pixel_threshold > 0:
        return torch.zeros_like(anomaly_map)
    return (anomaly_map / (2 * pixel_threshold)).clamp(0, 1)


def heatmap(anomaly_map: Tensor, pixel_threshold: float) -> np.ndarray:
    """Colours of an anomaly map (H, W) float: (H, W, 3) uint8."""
    values = scaled(anomaly_map, pixel_threshold).numpy()
    return (colormaps[COLORMAP](values)[..., :3] * 255).astype(np.uint8)


def overlay(
    image: Image.Image, anomaly_map: Tensor, pixel_threshold: float, truth: np.ndarray | None = None
) -> np.ndarray:
    """Image with its heatmap on it, stronger where the error is larger: (H, W, 3) uint8.

    Args:
        image: RGB, W x H.
        anomaly_map: (H, W) float in the image's pixels.
        pixel_threshold: Where the scale has its middle; the predicted mask's outline is drawn there.
        truth: (H, W) bool, the defect's mask; its outline is drawn in white.
    """
    base = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    strength = scaled(anomaly_map, pixel_threshold).numpy()[..., None] ** 0.5
    opacity = 0.15 + 0.55 * strength
    blended = ((1 - opacity) * base + opacity * heatmap(anomaly_map, pixel_threshold)).astype(np.uint8)
    if pixel_threshold > 0:
        blended[outline(anomaly_map.numpy() > pixel_threshold)] = PREDICTED
    if truth is not None and truth.shape == blended.shape[:2]:
        blended[outline(truth)] = TRUTH
    return blended


def outline(mask: np.ndarray) -> np.ndarray:
    """Border pixels of a mask (H, W) bool, inside it: (H, W) bool; wider on large images, so that it is seen."""
    width = max(1, round(min(mask.shape) / 300))
    return mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)
