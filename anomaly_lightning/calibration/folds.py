"""Cross-fitting: every normal scored by a detector that has not seen it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from anomaly_lightning.calibration.scores import Scores, as_scores
from anomaly_lightning.errors import CalibrationError

if TYPE_CHECKING:
    import torch


def fold_indices(n: int, folds: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split n normals into folds: for each a pair of sorted int64 index tensors (to fit on, held out).

    The held-out parts are disjoint, cover all n, and differ in size by one at most.

    Raises:
        CalibrationError: Fewer than two folds, or more folds than normals.
    """
    if not 2 <= folds <= n:
        raise CalibrationError(f"Cross-fitting needs 2 to {n} folds for {n} normals; got folds={folds}.")
    import torch  # here, because the thresholds need none

    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = [order[start::folds].sort().values for start in range(folds)]
    return [(torch.cat(parts[:i] + parts[i + 1 :]).sort().values, part) for i, part in enumerate(parts)]


def on_final_scale(
    scores: ArrayLike | torch.Tensor, held_out: ArrayLike | torch.Tensor, final: ArrayLike | torch.Tensor
) -> Scores:
    """Scores (n,) float64 by a fold's detector as the final detector would have given them, had it not seen them.

    A fold's detector has seen fewer normals, so it scores all images a little higher, and weights of its own may
    give it another unit altogether. Both detectors score the held-out normals, which neither has seen: the mean of the
    logarithms' differences over these pairs is the factor between them, exact to the little by which the same image's
    two scores vary.

    Args:
        scores: (n,) of normals that the fold left out, by the fold's detector.
        held_out: (m,) of held-out normals by the fold's detector.
        final: (m,) of the same ones by the final detector.

    Raises:
        CalibrationError: Scores that are not above 0 or not finite, or other numbers of held-out ones.
    """
    own, before, after = (as_scores(values) for values in (scores, held_out, final))
    if len(before) != len(after) or not len(before):
        raise CalibrationError(f"Expected two scores of each held-out normal; got {len(before)} and {len(after)}.")
    if (low := min(own.min(), before.min(), after.min())) <= 0:
        raise CalibrationError(
            f"Cross-fitting compares logarithms and needs scores above 0; the lowest is {low:g}. Leave "
            "calibration_folds at 0."
        )
    return own * float(np.exp(np.mean(np.log(after) - np.log(before))))
