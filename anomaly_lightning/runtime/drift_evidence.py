"""Evidence that a stream has changed, with a promise about false alarms that holds for any distribution.

Each measure of an image is ranked among all images before it, the calibration normals first. While nothing changes
(calibration normals and stream are exchangeable), these ranks are independent and uniform, however few the calibration
normals are: a rank among a fixed and small sample would not be (conformal test martingales; V. Vovk et al., "Retrain or
not retrain: conformal test martingales for change-point detection", COPA 2021). A bet on the ranks that multiplies a
stake by 1 on average therefore gains nothing. The Shiryaev-Roberts procedure starts such a bet at every image:
R = (1 + R) * bet. R - n is a martingale, so that R exceeds A within m images with a probability of at most m / A, and
the mean number of images until it does is at least A (M. Pollak, "Average run lengths of an optimal method of detecting
a change in distribution", 1987; J. Shin et al., "E-detectors", 2023).
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

# Bets by what they are made for: the share of the images that moved, and by how many standard deviations. The one of
# whole shifts is the likelihood ratio of two normal distributions, applied to normal scores of the ranks.
BETS = ((1.0, 0.5), (1.0, -0.5), (1.0, 1.0), (1.0, -1.0), (1.0, 2.0), (1.0, -2.0), (0.05, 3.0), (0.2, 3.0))
_SHARES, _SHIFTS = (np.array(values) for values in zip(*BETS, strict=True))
BINS = 512
_FINEST = BINS / 2 / np.arcsinh(1000.0)  # bins a standard deviation near the middle; the outermost begin at 1000
_EDGE = 1e-12  # ranks of 0 and 1 would be infinite scores
_STRONG = 0.1  # of the strongest bet: those that tell when a change began
_NORMAL = NormalDist()


def bins(values: Floats, middle: Floats, scale: Floats) -> Whole:
    """Bin of each measure, (..., K) in [0, 1024): fine around the middle, coarse far out, NaN in the last.

    Args:
        values: (..., K) measures.
        middle: (K,) centres.
        scale: (K,) standard deviations, above 0.
    """
    place = _FINEST * np.arcsinh((values - middle) / scale) + BINS / 2 + 0.5  # the median lies inside of a bin
    found: Whole = np.clip(np.where(np.isnan(place), np.inf, place), 0, BINS - 1).astype(np.int64)
    return found


def scores(p: Floats) -> Floats:
    """Normal scores of ranks from above: 0.5 becomes 0, 0.025 becomes 1.96."""
    return np.array([_NORMAL.inv_cdf(min(max(1 - value, _EDGE), 1 - _EDGE)) for value in p.tolist()])


def bets(z: Floats) -> Floats:
    """What each bet multiplies its stake by, (..., 8), given normal scores (...): 1 on average without a change."""
    whole = np.exp(_SHIFTS * z[..., None] - 0.5 * _SHIFTS**2)
    found: Floats = 1 - _SHARES + _SHARES * whole
    return found


def shiryaev_roberts(values: Floats, factors: Floats) -> Floats:
    """A bet begun at each image so far, after one more: the sum of all stakes, of any shape."""
    return (1 + values) * factors


class Reference:
    """How many images had each value of each measure: the calibration normals, and all that came after.

    Args:
        start: (..., bins) int64, counts to begin with; what stands before the bins is the shape of all else here, (K,)
            for one stream.
    """

    def __init__(self, start: Whole) -> None:
        self._below = np.cumsum(start, axis=-1)  # images up to each bin
        self._bins = np.arange(start.shape[-1])

    @property
    def counts(self) -> Whole:
        """(..., bins) int64."""
        found: Whole = np.diff(self._below, axis=-1, prepend=0)
        return found

    @property
    def sizes(self) -> Whole:
        """Images that are remembered, by measure: (...)."""
        sizes: Whole = self._below[..., -1]
        return sizes

    def rank(self, places: Whole, ties: Floats, remember: bool = True) -> Floats:
        """Share of the images whose value is at least as large, the new one among them, (...).

        Args:
            places: (...) bins of the new image.
            ties: (...) uniform in (0, 1], which break ties at random: with them the ranks are exactly uniform.
            remember: Whether later images are ranked among this one, too.
        """
        upto, before = self._upto(places), np.where(places > 0, self._upto(np.maximum(places - 1, 0)), 0)
        sizes = self.sizes
        p: Floats = (sizes - upto + ties * (upto - before + 1)) / (sizes + 1)
        if remember:
            self._below += self._bins >= places[..., None]
        return p

    def _upto(self, places: Whole) -> Whole:
        found: Whole = np.take_along_axis(self._below, places[..., None], axis=-1)[..., 0]
        return found


class Evidence:
    """Shiryaev-Roberts statistics of every measure and bet, and since when each has been growing.

    Args:
        shape: (K,) measures of one stream; what stands before K are streams.

    Attributes:
        values: (..., K, 8).
        images: Images so far.
    """

    def __init__(self, *shape: int) -> None:
        self.values, self.images = np.zeros((*shape, len(BETS))), 0
        self.growth, self.begun = np.zeros_like(self.values), np.zeros(self.values.shape, np.int64)

    def update(self, z: Floats) -> Floats:
        """Take normal scores (..., K) of one image; returns the mean over the bets, by measure: (..., K)."""
        factors = bets(z)
        self.values = shiryaev_roberts(self.values, factors)
        self.growth += np.log(factors)  # CUSUM: where it falls to 0, whatever changed has not changed yet
        self.images += 1
        fallen = self.growth <= 0
        self.growth[fallen], self.begun[fallen] = 0.0, self.images
        means: Floats = self.values.mean(axis=-1)
        return means

    def since(self, measure: int) -> int:
        """Images before the change that a measure of the one stream shows, by the latest of the strong bets."""
        values = self.values[measure]
        return int(self.begun[measure, values >= _STRONG * values.max()].max())
