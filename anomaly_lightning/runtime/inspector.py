"""A trained detector for use in code: images in, scores, decisions and maps in the images' own pixels out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from anomaly_lightning.data.tiling import Box, Tiling, crop
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.appearance import image_statistics
from anomaly_lightning.runtime.region import RegionScoring
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.runtime.validity import Validity
from anomaly_lightning.training.checkpoint import load_module
from anomaly_lightning.training.module import AnomalyModule

TILES_AT_ONCE = 8  # bounds what a large image holds beside its own map


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        score: Raw error, larger = more anomalous.
        decision: Whether the score is above the threshold: the part is called defective.
        anomaly_map: (H, W) float in the image's own pixels, same unit as the score.
        mask: (H, W) bool, where the map is above the pixel threshold.
        review: Whether the score is in the band below the threshold (threshold.review_budget) for an operator.
        invalid: Why the image is not of the kind that the model knows (its score means nothing then); None if it is.
    """

    score: float
    decision: bool
    anomaly_map: Tensor
    mask: Tensor
    review: bool = False
    invalid: str | None = None

    @property
    def verdict(self) -> str:
        """One word for the image: INVALID, NG, REVIEW or OK."""
        if self.invalid is not None:
            return "INVALID"
        return "NG" if self.decision else "REVIEW" if self.review else "OK"


class Predictor:
    """Scores images with a trained module.

    Args:
        module: Calibrated.
        transform: The one it was trained with.
        device: "auto" (a GPU where there is one), or a torch device.
        tiling: How large images are cut; None = they are scored whole.
        validity: What tells images of another kind; None = all are taken.

    Raises:
        NotCalibratedError: The module has no threshold.
        UserError: There is no such device.
    """

    def __init__(
        self,
        module: AnomalyModule,
        transform: ImageTransform,
        device: str = "auto",
        validity: Validity | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        module.decide(torch.zeros(1))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.module = module.to(torch.device(device)).eval()
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={device} can't be used here: {str(error).splitlines()[0]}") from error
        self.transform, self.validity, self.tiling = transform, validity, tiling

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", trust: Sequence[str] = (), validity: bool = True
    ) -> "Predictor":
        """Predictor of a run's best.ckpt; see `checkpoint.load_module` for what it raises.

        Args:
            path: The checkpoint.
            device: As above.
            trust: Further packages whose detectors may be created.
            validity: Whether to tell images of another kind, where the checkpoint knows how.
        """
        module, transform, settings = load_module(Path(path), trust)
        known = settings.get("validity") if validity else None
        checked, data = None if known is None else Validity.from_plain(known), settings.get("data", {})
        cut = None if data.get("tile") is None else Tiling.from_config(data["tile"], data["tile_overlap"])
        return cls(module, transform, device, checked, cut)

    def check(self, image: Image.Image, path: Path | str = "the image") -> None:
        """Raise `DataError` where the model looks at a region of its own and the image does not fit that."""
        scoring = self.module.scoring
        if isinstance(scoring, RegionScoring) and scoring.roi is not None:
            scoring.roi.check((image.height, image.width), path)

    def invalid(self, image: Image.Image) -> str | None:
        """Why an RGB image is not of the kind that the model knows; None where it is, or nobody knows."""
        return None if self.validity is None else self.validity.reason(image_statistics(image))

    def __call__(self, image: Image.Image) -> Prediction:
        """What is said of one RGB image; raises `DataError` where it does not fit the model's region."""
        self.check(image)
        if self.tiling is not None:
            said = self._tiled(image, self.tiling)
        else:
            said = self.batch([self.transform(image)], [(image.height, image.width)])[0]
        return replace(said, invalid=self.invalid(image))

    @torch.inference_mode()
    def batch(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """What is said of some images that went through the transform.

        Args:
            images: Each (3, H, W) float32.
            sizes: (H, W) of each image in its own pixels.
        """
        maps, scores = self.module(torch.stack(list(images)).to(self.module.device))
        decisions = self.module.decide(scores).tolist()
        predictions = []
        for anomaly_map, score, decision, size in zip(maps.cpu(), scores.tolist(), decisions, sizes, strict=True):
            own = self.module.scoring.own(self.transform.restore(anomaly_map, size))
            predictions.append(self._prediction(score, decision, own))
        return predictions

    def _prediction(self, score: float, decision: bool, own: Tensor) -> Prediction:
        """What follows from a score and a map (H, W) float in the image's own pixels."""
        lower = self.module.calibration.get("review")
        review = lower is not None and not decision and score > lower
        return Prediction(score, decision, own, own > float(self.module.pixel_threshold), review)

    def _tiled(self, image: Image.Image, tiling: Tiling) -> Prediction:
        """What is said of a large image, tile by tile: its score is that of its most anomalous tile, as calibrated."""
        size, scores = (image.height, image.width), list[float]()
        boxes = tiling.boxes(size)

        def maps() -> Iterator[tuple[Box, Tensor]]:
            for start in range(0, len(boxes), TILES_AT_ONCE):
                some = boxes[start : start + TILES_AT_ONCE]
                images = [self.transform(crop(image, box)) for box in some]
                for box, said in zip(some, self.batch(images, [box[2:] for box in some]), strict=True):
                    scores.append(said.score)
                    yield box, said.anomaly_map

        own = tiling.blend(maps(), size)
        decision = bool(self.module.decide(torch.tensor([max(scores)], device=self.module.device))[0])
        return self._prediction(max(scores), decision, own)
