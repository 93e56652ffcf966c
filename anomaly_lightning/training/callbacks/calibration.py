"""Fits the thresholds on validation normals, after training, and writes them into the module's buffers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from anomaly_lightning.calibration import F1, Calibration, Rule, fold_indices
from anomaly_lightning.calibration.scores import as_scores
from anomaly_lightning.data.folder import defects_in
from anomaly_lightning.data.splits import Splits
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.features.condensed import OrderedRows
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.files import on_disk
from anomaly_lightning.runtime.reading import check_images
from anomaly_lightning.runtime.tiles import Tiling, crop
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training.cross_fitting import cross_fitted, refuse
from anomaly_lightning.training.module import AnomalyModule

PIXELS = 4_000_000  # 32 MB; 61 images of 256 x 256
MAPS_AT_ONCE = 16


class CalibrationCallback(pl.Callback):
    """Calibrates whenever the validation normals are scored outside of training.

    While fitting, validation only watches the loss: the weights still change, and the sanity check's are untrained.

    Args:
        rule: From scores of normals to the threshold.
        pixel_rule: From the values of the pixels of the normals' maps to the pixel threshold.
        defects: Folder of labelled defects, for rules that need some (threshold=f1) and detectors that learn from them
            (model=unet, model=noise_*), and for those alone.
        folds: Cross-fitting: the rule sees the training normals' scores, too, by so many refits of the detector's
            statistics; see `training.cross_fitting`. 0: the held-out normals' alone.
    """

    def __init__(self, rule: Rule, pixel_rule: Rule, defects: str | None = None, folds: int = 0) -> None:
        if rule.labelled and defects is None:
            raise CalibrationError(
                f"threshold={rule.method} needs labelled defects: labelled_defects=<folder of images of defects>, "
                "which must not be test images."
            )
        _check_pixel_rule(pixel_rule)
        if isinstance(folds, bool) or not isinstance(folds, int) or folds < 0 or folds == 1:
            raise CalibrationError(f"calibration_folds={folds!r}: expected 0, or 2 and more.")
        self.rule, self.pixel_rule, self.defects, self.folds = rule, pixel_rule, defects, folds

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse before the fit what would fail after it: too few normals, labelled defects that can't be used."""
        if stage != "fit":
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, AnomalyModule)
        normals = len(datamodule.splits.validation)
        if self.folds:
            refuse(pl_module.model.detector)
            fold_indices(len(datamodule.splits.train), self.folds, pl_module.card.seed)
            normals += len(datamodule.splits.train)
        as_scores(np.zeros(normals), self.rule.least, f"scores of normals for {self.rule}")
        if self.defects is not None:
            learns = any(one.known for one in pl_module.learners)
            if not (self.rule.labelled or learns):
                raise CalibrationError(
                    f"labelled_defects={self.defects} goes with threshold=f1, model=unet, model=noise_* and "
                    f"localiser=unet only, not with {self.rule.method} and {type(pl_module.model.detector).__name__}."
                )
            pl_module.labelled = defects_in(on_disk(Path(self.defects).expanduser()))
            unreadable = check_images(self._labelled(datamodule))
            listed = "\n".join(f"  {path}: {reason}" for path, reason in unreadable.items())
            if unreadable:
                raise CalibrationError(f"labelled_defects: {len(unreadable)} image(s) can't be read:\n{listed}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit both thresholds on what the validation normals scored."""
        assert isinstance(pl_module, AnomalyModule)
        if trainer.state.fn == TrainerFn.FITTING:
            return
        scores, error_maps = pl_module.evaluated()
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        splits: Splits = datamodule.splits
        normals, known = list(splits.validation), scores
        if self.folds:
            more = cross_fitted(pl_module, datamodule, len(splits.train), self.folds, pl_module.card.seed)
            normals, known = [*normals, *splits.train], torch.cat((scores, more))
        calibration = self._fit(known, trainer, pl_module)
        model = pl_module.model
        model.threshold.fill_(calibration.threshold)
        model.pixel_threshold.fill_(self.pixel_rule.place(normal_pixels(model.mapping, error_maps)))
        names = [sample.file for sample in normals]
        thresholds = ThresholdsCard(
            score=float(model.threshold),
            pixel=float(model.pixel_threshold),
            review=calibration.review,
            promise=promise(
                calibration, names, rests_on(pl_module.chosen, splits, self.folds), len(known) - len(scores)
            ),
            scores=tuple(scores.tolist()),
        )
        pl_module.card = pl_module.card.replace(thresholds=thresholds)

    def _fit(self, scores: Tensor, trainer: pl.Trainer, module: AnomalyModule) -> Calibration:
        if not isinstance(self.rule, F1):
            return self.rule.fit(scores)
        return self.rule.fit(scores, self._scores_of_defects(trainer.datamodule, module))  # type: ignore[attr-defined]

    def _labelled(self, datamodule: Any) -> list[Path]:
        """Images of the labelled defects; a test image among them is refused by its content."""
        images = [sample.path for sample in defects_in(on_disk(Path(str(self.defects)).expanduser()))]
        if not images:
            raise CalibrationError(
                f"labelled_defects={self.defects}: the folder is missing or holds no image of a defect."
            )
        content_hash = datamodule.content_hash
        tested = {content_hash(sample.path): sample.path for sample in datamodule.splits.test}
        shared = [path for path in images if content_hash(path) in tested]
        if shared:
            raise CalibrationError(f"labelled_defects: {shared[0]} is a test image, too ({len(shared)} are).")
        return images

    @torch.no_grad()
    def _scores_of_defects(self, datamodule: Any, module: AnomalyModule) -> Tensor:
        """Scores (m,) float of the labelled defects; with tiles that of an image's most anomalous one."""
        tiling = None if module.card.tiling is None else Tiling.from_card(module.card.tiling)

        def score(path: Path) -> float:
            image = datamodule.transform.read(path)
            boxes = [] if tiling is None else tiling.boxes((image.height, image.width))
            pieces = [crop(image, box) for box in boxes] or [image]
            seen = (torch.from_numpy(datamodule.transform(piece)) for piece in pieces)
            return max(float(module(piece[None].to(module.device))[1]) for piece in seen)

        return torch.tensor([score(path) for path in self._labelled(datamodule)])


def _check_pixel_rule(rule: Any) -> None:
    """Refuse before the fit what can't place a pixel threshold, and what it would not listen to."""
    if not isinstance(rule, Rule):
        raise CalibrationError(
            f"pixel_threshold={rule}: expected a block with a _target_. Its rule is chosen by "
            "threshold@pixel_threshold=<name>, its options are pixel_threshold.<option>."
        )
    if rule.labelled:
        raise CalibrationError(
            f"threshold@pixel_threshold={rule.method}: expected a rule that needs no defects; the pixel threshold is "
            "placed on normals' pixels alone."
        )
    if rule.review_budget is not None:
        raise CalibrationError(
            f"pixel_threshold.review_budget={rule.review_budget}: expected null. Images are reviewed, not pixels: set "
            "threshold.review_budget."
        )


def normal_pixels(scoring: Scoring, error_maps: Tensor | OrderedRows, limit: int = PIXELS) -> np.ndarray:
    """Values of the anomaly maps of normals, (n,) float64.

    All of them up to `limit`; beyond, evenly spaced ones of every map, so that memory does not grow with the images.

    Args:
        scoring: Makes maps.
        error_maps: (N, h, w) float.
        limit: Values at most, about.
    """
    height, width = scoring.size
    step = math.ceil(len(error_maps) * height * width / limit)
    while step > 1 and math.gcd(step, width) > 1:  # else some columns would never be seen
        step += 1
    maps = (scoring.maps(chunk.to(scoring.down.device)) for chunk in error_maps.split(MAPS_AT_ONCE))
    chunks = (scoring.pixels(chunk).flatten() for chunk in maps)
    return torch.cat([values[::step].double() for values in chunks]).cpu().numpy()


def rests_on(chosen: Sequence[str], splits: Splits, folds: int = 0) -> list[str]:
    """What the promise of the thresholds rests on, in sentences.

    Args:
        chosen: In words, what was chosen on held-out normals.
        splits: Of the run.
        folds: Of the cross-fitting; 0: none.
    """
    own, others, what = len(splits.validation), len(splits.selection), " and ".join(chosen)
    basis = [f"{own} held-out normals that the model was not trained on, drawn like the training normals."]
    if folds:
        basis.append(
            f"And {len(splits.train)} training normals, each scored by one of {folds} refits of the statistics that "
            "had not seen it, on the final model's scale. Networks that gradients trained had seen them."
        )
    if splits.shots is not None:
        basis.append(
            f"The model learned from {splits.shots} normals alone (data.shots), the threshold did not: without these "
            f"{own} others there would be none that promises anything."
        )
    if not chosen:
        return [*basis, "They were used for nothing else."]
    if others:
        return [*basis, f"They were used for nothing else: {others} other held-out normals chose {what}."]
    approximate = "so the promise is approximate; data.selection_share=0.5 would keep both apart."
    return [*basis, f"The same normals also chose {what}, {approximate}"]


def promise(calibration: Calibration, names: Sequence[str], basis: list[str], cross_fitted: int = 0) -> dict[str, Any]:
    """A calibration as plain values: the influential normal by name, and what the promise rests on."""
    values = calibration.plain(names, basis)
    return values | {"cross_fitted": cross_fitted} if cross_fitted else values
