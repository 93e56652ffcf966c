"""The contract every method keeps, so that a new one is one file here and one yaml in conf/model.

Nothing here knows Lightning, Hydra, files or thresholds: a detector sees tensors and returns errors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

Normals = Iterable[Tensor]
"""Batches (B, ...) float of normal images' inputs, on the detector's device; may be walked any number of times."""


@dataclass(frozen=True)
class Spec:
    """What a detector will see.

    Attributes:
        features: (C, h, w) of an image's features.
        image: (H, W) of the network's input in pixels.
        scales: (C_i, h_i, w_i) of each layer where the features hold layers of different grids, folded into the
            channels of the coarsest (features.coarse=packed, see `parts.scales`); () = one grid for all.
    """

    features: tuple[int, int, int]
    image: tuple[int, int]
    scales: tuple[tuple[int, int, int], ...] = ()


class Detector(nn.Module):
    """Learns what normal inputs look like and measures how far others are from it.

    Life of a detector: `build` once, `prepare` with the training normals, then `error_map`. Methods with gradients are
    `TrainedDetector`. All state is in parameters and buffers, so that a checkpoint is loaded by `build` and
    `load_state_dict`.

    Attributes:
        inputs: What it sees: "features" (B, C, h, w) float of the backbone, or "images" (B, 3, H, W) float.
    """

    inputs: ClassVar[Literal["features", "images"]] = "features"

    def build(self, spec: Spec) -> None:
        """Make what depends on the inputs' shapes; called once, before anything else."""

    def grid(self, spec: Spec) -> tuple[int, int]:
        """(h, w) of its error maps: that of the features, unless a method says otherwise."""
        return spec.features[1:]

    def prepare(self, normals: Normals) -> None:
        """Compute statistics of the training normals, before any gradient step; a second call starts from scratch."""

    @property
    def absorbs(self) -> bool:
        """Whether a fitted detector can take new normals in by `absorb`."""
        return True

    def absorb(self, normals: Normals, held_out: Normals) -> None:
        """Take new normals into the statistics of a fitted detector that `absorbs`, without a gradient step.

        All normals come, so that the result is what fitting on all of them would have given.

        Args:
            normals: The training normals and the new ones.
            held_out: As `TrainedDetector.conclude` takes them.
        """
        self.prepare(normals)

    def error_map(self, inputs: Tensor) -> Tensor:
        """Raw error of inputs (B, ...) float: (B, h, w) float, >= 0, larger = more anomalous.

        Never normalised or clipped, and never dependent on `self.training`.
        """
        raise NotImplementedError


class TrainedDetector(Detector):
    """A detector with losses to minimise between `prepare` and `conclude`.

    Attributes:
        condenses: Whether `condense` makes less of the inputs, worth keeping for all epochs.
        examples: Images with made defects that it learns from, beside the normals, at most; 0 = none.
        known: Images of known defects that it learns from where there are some, each in several versions; 0 = none.
        recipe: How those defects are made: arguments of `data.defects.Recipe`.
    """

    condenses: bool = False
    examples: int = 0
    known: int = 0
    recipe: Mapping[str, Any] = MappingProxyType({})

    def condense(self, inputs: Tensor) -> Tensor:
        """What `losses` looks at of inputs (B, ...) float: (B, ...) float; the inputs themselves here.

        Must not depend on parameters, on the epoch or on chance: it is computed once after `prepare`.
        """
        return inputs

    def explain(self, inputs: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """What `losses` looks at of inputs whose defects are known, for methods with `examples` or `known`.

        (B, ...) float.

        As `condense`, it must not depend on parameters, on the epoch or on chance; both give rows of one shape.

        Args:
            inputs: (B, ...) float.
            masks: (B, H, W) bool, pixels of the network's input that show a defect.
            known: (B,) bool; False = the image shows a defect, but nobody knows where.
        """
        raise NotImplementedError

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the player that trains them; each player has an optimizer of its own (a GAN has two)."""
        return {"all": list(self.parameters())}

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        """Losses of one player for what `condense` gave, (B, ...) float: each () float.

        "total" is minimised, the others are logged beside it.
        """
        raise NotImplementedError

    def conclude(self, normals: Normals, held_out: Normals) -> None:
        """Compute statistics that need the trained weights.

        Args:
            normals: The training normals.
            held_out: Normals that were not trained on, for a few numbers that training images can't give (they all
                were rebuilt too well), never for more: the threshold may be calibrated on the same normals.
        """

    @property
    def absorbs(self) -> bool:
        """As above; False where all that is known of normals lies in trained weights."""
        return False

    def absorb(self, normals: Normals, held_out: Normals) -> None:
        """As above, for methods with statistics beside their weights; what the weights see must not change by it."""
        raise NotImplementedError
