"""The metrics of each defect type against all good images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning.metrics import standard
from anomaly_lightning.metrics.checks import scores_and_labels, usable_threshold
from anomaly_lightning.metrics.pixel import PixelMetrics
from anomaly_lightning.runtime.decision import exceeds


def by_defect(
    scores: Tensor,
    labels: Tensor,
    defects: Sequence[str],
    threshold: float | None,
    pixels: PixelMetrics | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The "by_defect" block of metrics.json.

    Args:
        scores: raw and unbounded, larger = more anomalous, (N,) float.
        labels: True for defective, (N,) bool.
        defects: name of each image's defect type, N of them; what stands at good images is not read.
        threshold: decides by `runtime.decision.exceeds`; None or NaN when there is none.
        pixels: maps and masks that were taken in with their defect's name; None when there are none.

    Returns:
        {"<defect>": {"n", "recall", "auroc", "pixel_auroc"}} in the names' order, None where undefined; and the
        reasons, "by_defect.<defect>.<metric>" -> words.

    Raises:
        ValueError: scores are NaN or infinite, or shapes, dtypes or the number of names differ from the above.
    """
    values, anomalous = scores_and_labels(scores, labels)
    if len(defects) != len(values):
        raise ValueError(f"Expected a defect name for each of {len(values)} scores, got {len(defects)} names.")
    threshold = usable_threshold(threshold)
    names = np.asarray(defects, dtype=object)
    pixel_auroc = pixels.auroc_by_defect() if pixels else {}
    rows: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    for name in sorted(set(names[anomalous])):
        own = anomalous & (names == name)
        kept = torch.from_numpy(own | ~anomalous)
        row = {
            "recall": None if threshold is None else float(np.mean(exceeds(values[own], threshold))),
            "auroc": None if anomalous.all() else standard.ranking(scores[kept], labels[kept])["auroc"],
            "pixel_auroc": pixel_auroc.get(name),
        }
        rows[name] = {"n": int(own.sum()), **row}
        notes |= {f"by_defect.{name}.{key}": _WHY[key] for key, value in row.items() if value is None}
    return rows, notes


_WHY = {
    "recall": "there is no calibrated threshold",
    "auroc": "there are no good test images",
    "pixel_auroc": "there are no masks of this defect type, or no normal pixels beside them",
}
