"""The contract every method keeps, so that a new one is one file here and one yaml in conf/model.

Nothing here knows Lightning, Hydra, images or thresholds: a detector sees features and returns errors.
"""

from torch import Tensor, nn


class Detector(nn.Module):
    """Learns what normal features look like and measures how far others are from it.

    Life of a detector: `build` with the shape of an image's features; `observe` every training batch once,
    `finish`; then, where `trainable`, gradient steps on `loss` of what `condense` makes of features; then, where
    `refines`, `refine` every training batch once more with the trained weights, `refine_held_out` the validation
    normals, `finish_refine`. After `finish`, `error_map` may be called at any time. An `observe` that follows a
    `finish` starts anew. All state is in parameters and buffers, so that a checkpoint is loaded by `build` and
    `load_state_dict`.

    Attributes:
        trainable: Whether `loss` is to be minimised by gradient steps.
        condenses: Whether `condense` makes less of features, worth keeping for all epochs.
        refines: Whether a pass of `refine` over the training features is wanted after the gradient steps.
    """

    trainable: bool = False
    condenses: bool = False
    refines: bool = False

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make what depends on the features' shape (C, h, w); called once, before anything else."""

    def observe(self, features: Tensor) -> None:
        """Take one training batch (B, C, h, w) float into the statistics (means, covariances, memory banks)."""

    def finish(self) -> None:
        """Turn what was observed into buffers; idempotent."""

    def condense(self, features: Tensor) -> Tensor:
        """What `loss` looks at of features (B, C, h, w) float: (B, ...) float; the features themselves here.

        Must not depend on parameters, on the epoch or on chance: it is computed once after `finish`.
        """
        return features

    def loss(self, condensed: Tensor) -> Tensor:
        """Loss to minimise for what `condense` gave, (B, ...) float: () float. Only for `trainable` detectors."""
        raise NotImplementedError(f"{type(self).__name__} is fitted without gradients: it has no loss")

    def refine(self, features: Tensor) -> None:
        """Take one training batch (B, C, h, w) float into the statistics that need the trained weights."""

    def refine_held_out(self, features: Tensor) -> None:
        """Take one batch (B, C, h, w) float of normals that were not trained on, after all `refine` batches.

        For a few numbers that training images can't tell (they all were rebuilt too well), never for more: the
        threshold is calibrated on the same normals.
        """

    def finish_refine(self) -> None:
        """Turn what `refine` took in into buffers; idempotent."""

    def error_map(self, features: Tensor) -> Tensor:
        """Raw error of features (B, C, h, w) float: (B, h, w) float, >= 0, larger = more anomalous.

        Never normalised or clipped, and never dependent on `self.training`.
        """
        raise NotImplementedError
