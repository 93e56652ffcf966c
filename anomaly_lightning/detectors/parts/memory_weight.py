"""How much a patch memory counts beside a residual's length: a power, told by held-out normals."""

import torch
from torch import Tensor

TINY = 1e-6  # distances and lengths below it are as good as none


def memory_power(distances: Tensor, lengths: Tensor | None) -> Tensor:
    """Power of the memory's distance in the error, () float in [0, 2].

    1 less the mean square distance of held-out normals, in [0, 1]: for standardised noise that mean is 1 and the memory
    says nothing, where normals repeat it is small and the memory counts. The power is up to doubled where the length is
    the less even of the two over held-out normals, as it is where parts lie at any angle and a position means little:
    by the ratio of the standard deviations of their logarithms.

    Args:
        distances: (N, h, w) float, of held-out normals.
        lengths: (N, h, w) float, the residuals' lengths of the same; None where there is none.
    """
    power = (1.0 - distances.square().mean()).clamp(0, 1)
    if lengths is None or distances.numel() < 2:
        return power
    uneven, spread = (values.clamp_min(TINY).log().std() for values in (lengths, distances))
    return power * (uneven / spread.clamp_min(TINY)).clamp(1, 2)


def weighted(error: Tensor, distance: Tensor, power: Tensor) -> Tensor:
    """Error * distance ** power, each (B, h, w) float, `power` () float."""
    weighted_error: Tensor = error * distance.clamp_min(TINY) ** power
    return weighted_error


def rim_share(grid: tuple[int, int]) -> Tensor:
    """(h, w) float that attenuates errors at the rim by 1/3 at an edge and 5/9 in a corner.

    There the backbone saw its own padding, and features vary most for reasons that are no defect.
    """
    return torch.nn.functional.avg_pool2d(torch.ones(1, *grid), 3, 1, 1)[0]
