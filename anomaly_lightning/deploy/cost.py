"""What a coarser precision costs: thresholds calibrated again, metrics beside those of the checkpoint."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_lightning import calibration
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.deploy.parity import Parity
from anomaly_lightning.errors import ExportError
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.reports.results import Results
from anomaly_lightning.runtime.card import ModelCard, ThresholdsCard
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.callbacks.calibration import normal_pixels, promise
from anomaly_lightning.training.exported import ExportedModel

AT_ONCE = 8
RULES = (
    calibration.MeanStd, calibration.Highest, calibration.Robust, calibration.StudentT, calibration.Quantile,
    calibration.Conformal,
)  # fmt: skip
LOST = ("auroc", "aupro")  # what may not fall by more than the tolerance

Model = AnomalyModel | ExportedModel


@torch.inference_mode()
def scored(model: Model, card: ModelCard, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Scores (N,) and error maps (N, h, w), float, of N images or tiles."""
    transform, parts = ImageTransform.from_card(card.transform), []
    for start in range(0, len(samples), AT_ONCE):
        planes = [transform(transform.read(sample.path)) for sample in samples[start : start + AT_ONCE]]
        parts.append(model.scored(model.inputs(torch.from_numpy(np.stack(planes)))))
    scores, error_maps = (torch.cat(values).float() for values in zip(*parts, strict=True))
    return scores, error_maps


def recalibrated(card: ModelCard, ours: AnomalyModel, theirs: ExportedModel, normals: Sequence[Sample]) -> ModelCard:
    """The card with thresholds from what the exported model says of the validation normals.

    The score's threshold comes from the rule that the run had. One that rests on cross-fitted normals, which can't be
    scored again, is multiplied by the factor between both models' scores of the validation normals. The pixel threshold
    keeps its place among the pixels of the normals: the share of them above it stays, and beyond the largest it moves
    as that does.

    Raises:
        ExportError: The rule needs labelled defects, or there are no validation normals.
    """
    assert card.thresholds is not None
    known = card.thresholds
    method = str(known.promise.get("method"))
    rule = next((rule for rule in RULES if rule.method == method), None)
    if rule is None or not normals:
        raise ExportError(
            f"The thresholds can't be calibrated again: threshold={method} with {len(normals)} validation normals. "
            "Train with another threshold rule, or export with precision=fp32."
        )
    parameters: Any = known.promise["parameters"]
    scores, error_maps = scored(theirs, card, normals)
    own_scores, own_maps = scored(ours, card, normals)
    pixel = moved(known.pixel, normal_pixels(ours.mapping, own_maps), normal_pixels(theirs.mapping, error_maps))
    rested: Any = known.promise.get("rests_on", [])
    basis = [*rested, "Calibrated again for the exported precision."]
    if known.promise.get("cross_fitted"):
        return card.replace(thresholds=scaled(known, own_scores, scores, pixel, basis))
    found = rule(**parameters).fit(scores)
    said = promise(found, [sample.file for sample in normals], basis)
    return card.replace(thresholds=ThresholdsCard(found.threshold, pixel, found.review, said, tuple(scores.tolist())))


def scaled(known: ThresholdsCard, ours: Tensor, theirs: Tensor, pixel: float, basis: list[str]) -> ThresholdsCard:
    """Thresholds times the factor between scores (N,) of the same normals by two models."""
    factor = float(calibration.on_final_scale([1.0], ours, theirs)[0])
    said: dict[str, Any] = dict(known.promise)
    said |= {name: said[name] * factor for name in ("mean", "std")}
    review = None if known.review is None else known.review * factor
    said |= {"review": review, "rests_on": basis}
    return ThresholdsCard(known.score * factor, pixel, review, said, tuple(theirs.tolist()))


def moved(threshold: float, before: "np.ndarray", after: "np.ndarray") -> float:
    """The threshold that has the same place among the values (n,) `after` as `threshold` has among those `before`."""
    if threshold >= before.max():
        return float(threshold * after.max() / max(float(before.max()), 1e-12))
    return float(np.quantile(after, float((before <= threshold).mean())))


def cost(
    ours: AnomalyModel, theirs: ExportedModel, cards: tuple[ModelCard, ModelCard], samples: Sequence[Sample]
) -> dict[str, Any] | None:
    """AUROC, AUPRO, F1 and balanced accuracy of both on labelled images; None where not both labels are there."""
    if len({sample.label for sample in samples}) < 2:
        return None
    found = []
    sides: tuple[Model, Model] = (ours, theirs)
    for model, card in zip(sides, cards, strict=True):
        assert card.thresholds is not None
        results = Results(samples, *scored(model, card, samples), card, card.thresholds.score, card.thresholds.pixel)
        metrics = results.metrics(bootstrap=0)
        image, pixel = metrics["image"], metrics["pixel"] or {}
        named = {name: image.get(name) for name in ("auroc", "f1", "balanced_accuracy")}
        found.append({**named, "aupro": pixel.get("aupro"), "pixel_f1": pixel.get("f1")})
    return {name: {"checkpoint": found[0][name], "exported": found[1][name]} for name in found[0]}


def check(found: dict[str, Any] | None, parity: Parity, precision: str, tolerance: float) -> None:
    """Raise `ExportError` where the precision costs more than the tolerance.

    Of AUROC and AUPRO where there are labels; else of the share of the images whose decision changes.
    """
    if found is None:
        share = len(parity.flips) / parity.images
        wrong = (
            [f"{share:.1%} of the decisions differ, and no labels say for better or worse"] if share > tolerance else []
        )
    else:
        pairs = {name: (found[name]["checkpoint"], found[name]["exported"]) for name in LOST}
        wrong = [
            f"{name.upper()} falls from {before:.3f} to {after:.3f}"
            for name, (before, after) in pairs.items()
            if before is not None and after is not None and before - after > tolerance
        ]
    if wrong:
        raise ExportError(
            f"precision={precision} costs too much: {'; '.join(wrong)} (at most {tolerance:g}). Nothing was kept. "
            "Export with precision=fp32, or allow more with quantise.tolerance."
        )
