"""Known defects among the rows that a detector learns from: where they lie, and what an unlocated one says."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 0.02  # of the positions, the most anomalous, that a defect that nobody has located is expected to cover
UNLOCATED = 0.2  # weight of an image with such a defect
DEFECTIVE = 0.2  # share of a position's pixels from which on it counts as defective


class Rows(NamedTuple):
    """What a batch of rows holds.

    Attributes:
        inputs: (B, C, h, w) float.
        defective: (B, 1, h, w) float, 1 where a position is defective, else 0.
        located: (B,) bool; False = the image shows a defect somewhere.
    """

    inputs: Tensor
    defective: Tensor
    located: Tensor


def rows(inputs: Tensor, masks: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Inputs (B, C, h, w) float and behind them the share of each position that is defective, and whether it is known.

    Args:
        inputs: (B, C, h, w) float.
        masks: (B, H, W) bool, pixels that show a defect; None = these are normals.
        known: (B,) bool, whether the masks are the truth; None = they are.

    Returns:
        (B, C + 2, h, w) float.
    """
    if masks is None:
        shares = inputs.new_zeros(len(inputs), 1, *inputs.shape[-2:])
    else:
        shares = F.adaptive_avg_pool2d(masks[:, None].to(inputs.dtype), (inputs.shape[-2], inputs.shape[-1]))
    told = inputs.new_ones(len(inputs)) if known is None else known.to(inputs.dtype)
    return torch.cat([inputs, shares, told.view(-1, 1, 1, 1).expand_as(shares)], 1)


def read(batch: Tensor) -> Rows:
    """The parts of rows (B, C + 2, h, w) float."""
    located = batch[:, -1, 0, 0] > 0.5
    return Rows(batch[:, :-2], (batch[:, -2:-1] > DEFECTIVE).to(batch.dtype), located)


def somewhere(logits: Tensor) -> Tensor:
    """Loss () float of images with a defect somewhere, of logits (B, ...) float: the highest few should be positive."""
    flat = logits.flatten(1)
    most = flat.topk(max(1, round(SHARE * flat.shape[1])), 1).values
    return F.softplus(-most).mean()
