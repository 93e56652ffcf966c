"""Losses of a discriminator that tells normal from anomalous by one logit, positive where it finds it anomalous."""

import torch.nn.functional as F
from torch import Tensor


def masked_truncated_l1(logits: Tensor, mask: Tensor, margin: float) -> Tensor:
    """Mean max(0, margin + logit) of normal places + mean max(0, margin - logit) of anomalous ones, () float.

    Liu et al., CVPR 2023 (SimpleNet), equation 7, with the sign of the logits turned.

    Args:
        logits: (...) float.
        mask: The same shape, 1 = anomalous, 0 = normal.
        margin: What logits need no more than.
    """
    normal, anomalous = F.relu(margin + logits) * (1 - mask), F.relu(margin - logits) * mask
    return normal.sum() / (1 - mask).sum().clamp_min(1) + anomalous.sum() / mask.sum().clamp_min(1)


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean -(1 - p)^gamma log p, () float, p the probability of the right answer.

    Source: Lin et al., ICCV 2017, equation 4.

    Args:
        logits: (...) float.
        labels: The same shape, 1 = anomalous, 0 = normal.
        gamma: How little answers count that are right already; 0 = cross entropy.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (entropy * (1 - (-entropy).exp()) ** gamma).mean()
