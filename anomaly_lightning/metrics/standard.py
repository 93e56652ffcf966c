"""What torchmetrics has, fitted to raw scores: AUROC, average precision and the confusion of whole images.

Without `normalization=None` torchmetrics puts a batch with scores outside [0, 1] through a sigmoid, and leaves one
within as it is. Decisions go in as bool for the same reason. Its precision, recall and F1 are float32, and 0 where
they are undefined, so they are worked out from the confusion.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryConfusionMatrix


def ranking_metrics() -> MetricCollection:
    """AUROC ("auroc") and average precision ("average_precision"), exact, of raw scores (N,) and labels (N,) bool."""
    return MetricCollection(
        {"auroc": BinaryAUROC(normalization=None), "average_precision": BinaryAveragePrecision(normalization=None)}
    )


def ranking(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """The values of `ranking_metrics` in float64; there must be both kinds of labels."""
    with _float64_shares():
        return {name: float(value) for name, value in ranking_metrics()(scores.double(), labels).items()}


def confusion(decisions: Tensor, labels: Tensor) -> dict[str, int]:
    """Counts "tp", "fp", "tn", "fn" of decisions (N,) bool and labels (N,) bool, defective = positive."""
    (tn, fp), (fn, tp) = BinaryConfusionMatrix()(decisions, labels).tolist()
    return {"tp": tp, "fp": fp, "tn": tn, "fn": fn}


@contextmanager
def _float64_shares() -> Iterator[None]:
    """Let torchmetrics divide counts in float64: torch divides whole numbers in its default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
