"""What the page's plots are drawn from: bins, curves with bands; as SVG path data in a 100 x 100 box."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anomaly_lightning.metrics import PixelMetrics, curves
from anomaly_lightning.metrics.bootstrap import LEVEL, stratified_weights
from anomaly_lightning.metrics.ranking import rank, share
from anomaly_lightning.reports.axis import BINS, on_axis
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.reading import ImageError

PRO_LIMIT = 0.3
_RESAMPLES = 300


def histogram(results: Results, axis: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of the good (upwards) and the defective (downwards) images: x, width and height in per cent."""
    edges = np.linspace(0, 1, BINS + 1)
    places = on_axis(axis, results.scores.double().numpy())
    bad = results.labels.numpy()
    good_counts, bad_counts = (np.histogram(places[kind], edges)[0] for kind in (~bad, bad))
    most = int(max(good_counts.max(), bad_counts.max(), 1))
    bars = {
        name: [
            {"x": round(100 * i / BINS, 3), "height": round(100 * int(count) / most, 2), "count": int(count)}
            for i, count in enumerate(counts)
            if count
        ]
        for name, counts in (("good", good_counts), ("bad", bad_counts))
    }
    return {**bars, "width": round(100 / BINS, 3), "most": most}


def line(x: npt.ArrayLike, y: npt.ArrayLike, close: bool = False) -> str:
    """SVG path through points whose coordinates are in [0, 1]; y grows upwards."""
    points = zip(np.asarray(x, float).tolist(), np.asarray(y, float).tolist(), strict=True)
    body = "L".join(f"{100 * a:.2f} {100 - 100 * b:.2f}" for a, b in points)
    return f"M{body}{'z' if close else ''}" if body else ""


def score_curves(results: Results, with_pixels: bool, seed: int) -> dict[str, Any]:
    """ROC, precision-recall and overlap curves with 95 % bootstrap bands; None where undefined.

    Args:
        results: Of the test set.
        with_pixels: Whether there are masks to draw the overlap curve from.
        seed: Of the resamples behind the bands.
    """
    drawn = curves(results.scores, results.labels)
    roc, pr = drawn["roc"], drawn["pr"]
    pro = _overlap_curve(results, seed) if with_pixels else None
    if not roc or not pr:
        return {"roc": None, "pr": None, "pro": pro}
    roc_band, pr_band = _bands(results, seed)
    return {
        "roc": {"line": line(roc["false_alarm_rate"], roc["recall"]), "band": roc_band},
        "pr": {"line": line(pr["recall"], pr["precision"]), "band": pr_band},
        "pro": pro,
    }


def _bands(results: Results, seed: int) -> tuple[str, str]:
    """Pointwise 95 % bands of ROC and precision-recall, good and defective images resampled apart."""
    ranked = rank(results.scores.double().numpy(), results.labels.numpy())
    weights = stratified_weights(ranked.labels.astype(np.float64), _RESAMPLES, np.random.default_rng(seed))
    fp, tp = ranked.counts(weights)
    grid = np.linspace(0, 1, 101)
    recall = share(tp)
    with np.errstate(invalid="ignore"):
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
    roc = np.stack([np.interp(grid, x, y) for x, y in zip(share(fp), recall, strict=True)])
    pr = np.stack([np.interp(grid, x, y) for x, y in zip(recall, precision, strict=True)])
    return _band(grid, *np.quantile(roc, LEVEL, axis=0)), _band(grid, *np.quantile(pr, LEVEL, axis=0))


def _band(x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> str:
    return line(np.append(x, np.flip(x)), np.append(low, np.flip(high)), close=True)


def _overlap_curve(results: Results, seed: int) -> dict[str, str] | None:
    """The per-region overlap curve up to a false-alarm rate of PRO_LIMIT, and its band."""
    pixels = PixelMetrics()
    try:
        for index, sample in enumerate(results.samples):
            truth = results.truth(index)
            if truth is not None:
                size = (truth.shape[0], truth.shape[1])
                inside = results.inside(size)
                pixels.update(results.anomaly_map(index, size), truth, sample.defect, inside)
    except ImageError:  # images that have gone since the test: a curve of the others would not fit the metrics
        return None
    curve, band = pixels.pro_curve(limit=PRO_LIMIT), pixels.pro_band(_RESAMPLES, seed, limit=PRO_LIMIT)
    if curve is None:
        return None
    drawn = _band(np.array(band["false_alarm_rate"]) / PRO_LIMIT, band["low"], band["high"]) if band else ""
    return {"line": line(np.array(curve["false_alarm_rate"]) / PRO_LIMIT, curve["overlap"]), "band": drawn}


def median_score(results: Results) -> float:
    """The middle score: where the slider starts when nothing was calibrated."""
    return float(torch.median(results.scores))
