"""Cross-fitting: every normal scored by a detector that has not seen it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
