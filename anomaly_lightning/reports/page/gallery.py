"""Test images as the page carries them: a small WebP, its heatmap as a transparent overlay, outlines, and the score.

The overlay is the anomaly map in 256 steps on one scale for all images (`heatmap.scaled`: the pixel threshold at one
half), coloured here and stored without loss, so that the browser needs no drawing code. How far a map lies below the
threshold decides how much of the image shines through.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anomaly_lightning.reports.images import data_url, fitted, shrunk, webp
from anomaly_lightning.reports.page.contours import box_of, outline_path
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.decision import limit
from anomaly_lightning.runtime.heatmap import heatmap, scaled
from anomaly_lightning.runtime.reading import ImageError

TOTAL_BYTES = 5_500_000  # of all images and overlays before base64, which adds a third
MOST_BYTES = 40_000  # of one image, however few there are
MOST_IMAGES = 600  # more of them would each be too small to see anything on
OPACITY_POWER = 3  # so that what is common to all parts hardly tints the image
LARGEST_SIDE, SMALLEST_SIDE = 512, 48  # of an image on the page, in pixels
_MAP_SIDE = 256  # long side of the maps that outlines are traced on
_OVERLAY_SIDE = 112  # maps are smooth: the browser's interpolation does the rest
_MASK_SIDE = 1024


def drawn_images(results: Results, names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a test image, in the order of the results.

    Args:
        results: N images.
        names: What to call each, N of them.

    Returns:
        name, defect, bad (shows a defect), score, box [width, height]; image and heat (data URLs, None where there
        is none), truth and predicted (SVG path data; None = unknown, "" = nowhere), why (reason where image is None).
    """
    chosen = _worth_drawing(results)
    budget = min(MOST_BYTES, TOTAL_BYTES // max(1, len(chosen)))

    def entry(index: int) -> dict[str, Any]:
        sample = results.samples[index]
        known = {"name": names[index], "defect": sample.defect, "bad": bool(sample.label)}
        known["score"] = float(results.scores[index])
        left_out = {"image": None, "heat": None, "truth": None, "predicted": None, "box": [4, 3]}
        if index not in chosen:
            return known | left_out | {"why": f"only the {MOST_IMAGES} images nearest to a wrong decision are drawn"}
        try:
            return known | _drawn(results, index, budget)
        except ImageError as error:
            return known | left_out | {"why": error.reason}

    # Decoders and encoders release Python's lock.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(entry, range(len(results.samples))))


def _worth_drawing(results: Results) -> set[int]:
    """Places of the images that are drawn: all, or the most wrong and those nearest to being it."""
    scores = results.scores.double()
    middle = results.threshold if np.isfinite(results.threshold) else float(scores.median())
    rightness = torch.where(results.labels, scores - middle, middle - scores)
    return set(rightness.argsort(stable=True)[:MOST_IMAGES].tolist())


def _drawn(results: Results, index: int, budget: int) -> dict[str, Any]:
    image = results.transform.read(results.samples[index].path)
    size = (image.height, image.width)
    box = box_of(size)
    maps = results.anomaly_map(index, fitted(size, _MAP_SIDE))
    calibrated = results.pixel_threshold > 0
    heat = webp_within(_overlay(maps, results.pixel_threshold), budget // 3, lossless=True) if calibrated else None
    return {
        "box": list(box),
        "image": data_url(webp_within(image, budget - len(heat or b""))),
        "heat": data_url(heat) if heat else None,
        "truth": _truth_path(results, index, box),
        "predicted": _predicted_path(results, maps, box) if calibrated else None,
        "why": "",
    }


def _predicted_path(results: Results, maps: Tensor, box: tuple[int, int]) -> str:
    """Outline of the predicted mask by an anomaly map (H, W) float."""
    values, level = maps.double().numpy(), limit(results.pixel_threshold)
    # What is above the threshold and not of the mask lies as far below as the nearest pixel of the mask above it.
    return outline_path(np.where(results.mask(values), values, np.minimum(values, 0.9 * level)), level, box)


def _truth_path(results: Results, index: int, box: tuple[int, int]) -> str | None:
    """Outline of an image's mask, None where it is unknown or can't be read.

    A large mask is reduced so that not even a lone defect pixel is lost.
    """
    try:
        truth = results.truth(index)
    except ImageError:
        return None
    if truth is None:
        return None
    size = fitted((truth.shape[0], truth.shape[1]), _MASK_SIDE)
    reduced = F.adaptive_max_pool2d(truth.float()[None], size)[0] if size != tuple(truth.shape) else truth.float()
    return outline_path(reduced.numpy().astype(np.float64), 0.5, box)


def _overlay(maps: Tensor, pixel_threshold: float) -> Image.Image:
    """Heatmap with opacity: clear where the error is small, opaque from the pixel threshold on."""
    small = F.interpolate(maps[None, None], size=fitted((maps.shape[0], maps.shape[1]), _OVERLAY_SIDE), mode="area")
    values = small[0, 0].numpy()
    opacity = (2 * scaled(values, pixel_threshold)).clip(max=1) ** OPACITY_POWER
    alpha = (255 * opacity).round().astype(np.uint8)
    return Image.fromarray(np.dstack([heatmap(values, pixel_threshold), alpha]))


def webp_within(image: Image.Image, budget: int, lossless: bool = False) -> bytes:
    """WebP file of an image, made smaller until it has at most `budget` bytes, or its long side SMALLEST_SIDE."""
    side = min(LARGEST_SIDE, max(image.size))
    content = webp(shrunk(image, side), lossless)
    while len(content) > budget and side > SMALLEST_SIDE:
        # Bytes grow nearly with the area; the tenth makes sure that few tries are needed.
        side = max(SMALLEST_SIDE, int(side * 0.9 * (budget / len(content)) ** 0.5))
        content = webp(shrunk(image, side), lossless)
    return content
