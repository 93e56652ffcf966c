"""Where a defect is, beside how much of one an image shows: a second detector that sharpens the map of the first.

Two methods that are good at one thing each: the map comes from both, the score of an image from the first alone. On
the development categories a localiser in the score cost ranking (docs/quality.md).
"""

from torch import Tensor, nn

from anomaly_lightning.detectors.base import Detector, Spec
from anomaly_lightning.detectors.parts.grid import enlarged
from anomaly_lightning.detectors.parts.scales import Layered, Scales
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.alignment import Alignment


class Localiser(nn.Module):
    """Multiplies errors with the root of what a second detector finds at the same place.

    The second detector sees the layers packed, each on its own grid; the first what `alignment` makes of them.

    Args:
        detector: The second one; `build` is called here.
        floor: Added to its error, which is so much where nothing is found that the first detector still counts.
        alignment: Of the first detector's features.
        spec: What the second detector sees.

    Raises:
        UserError: The floor is negative, or the detector does not see features.
    """

    def __init__(self, detector: Detector, floor: float, alignment: Alignment, spec: Spec) -> None:
        super().__init__()
        if floor < 0:
            raise UserError(f"localiser.floor={floor}: expected 0 or more.")
        if detector.inputs != "features":
            raise UserError(f"localiser.detector={type(detector).__name__}: expected a method that sees features.")
        detector.build(spec)
        self.detector, self.floor, self.alignment, self.spec = detector, floor, alignment, spec
        self._scales = Scales(spec)

    def aligned(self, packed: Tensor) -> Tensor:
        """What the first detector sees of packed features (B, C', h', w') float: (B, C, h, w) float."""
        features: Tensor = self.alignment(self._scales.unfolded(packed))
        return features

    def grid(self, errors: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of located errors, the finer of both grids; `errors`: that of the first detector's."""
        own = self.detector.grid(self.spec)
        return max(errors[0], own[0]), max(errors[1], own[1])

    def forward(self, errors: Tensor, packed: Tensor) -> Tensor:
        """Located errors (B, h, w) float.

        Args:
            errors: (B, h', w') float, of the first detector.
            packed: (B, C', h'', w'') float, the packed features.
        """
        return self._located(errors, self.detector.error_map(packed))

    def of_layers(self, errors: Tensor, layers: list[Tensor]) -> Tensor:
        """The same of layers (B, C_i, h_i, w_i) float that were not packed."""
        if isinstance(self.detector, Layered):
            return self._located(errors, self.detector.layer_errors(layers))
        return self._located(errors, self.detector.error_map(self._scales.folded(layers)))

    def _located(self, errors: Tensor, found: Tensor) -> Tensor:
        """Both maps, (B, h', w') float, in one: (B, h, w) float."""
        size = self.grid((errors.shape[-2], errors.shape[-1]))
        first, second = (enlarged(maps[:, None], size)[:, 0] for maps in (errors, found))
        return first * (self.floor + second).sqrt()
