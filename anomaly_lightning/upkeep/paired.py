"""Two models on the same images: whether their difference is more than chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Discordant:
    """Images on which one of two models errs and the other does not.

    Attributes:
        total: Images that both decided on.
        first: The first alone errs.
        second: The second alone errs.
        p_value: Two-sided, that either is as likely (exact McNemar test, 1947); 1 where none differs.
    """

    total: int
    first: int
    second: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> Discordant:
    """Compare the mistakes of two models.

    Args:
        first: (n,) bool, where the first errs.
        second: (n,) bool, where the second errs.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    alone, beside = int((one & ~other).sum()), int((other & ~one).sum())
    differ = alone + beside
    p_value = 1.0 if differ == 0 else float(stats.binomtest(alone, differ, 0.5).pvalue)
    return Discordant(len(one), alone, beside, p_value)


@dataclass(frozen=True)
class Areas:
    """AUROC of two models on the same images.

    Attributes:
        first: Of the first.
        second: Of the second.
        low: Lower end of the 95 % interval of second - first.
        high: Its upper end.
        p_value: Two-sided, that they are the same (DeLong et al. 1988); 1 where both rank alike.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float


def auroc(good: ArrayLike, bad: ArrayLike) -> float:
    """Share of the pairs of a good and a defective part that scores (n,) and (m,) order rightly, ties half."""
    return float(_placements(good, bad)[0].mean())


def delong(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> Areas | None:
    """Compare two rankings of the same images (DeLong, DeLong & Clarke-Pearson 1988).

    Args:
        first: Scores of n good and m defective images by the first model.
        second: Those of the same images, in the same order, by the second.

    Returns:
        None with fewer than two images of either kind: there is no variance then.
    """
    (bad_one, good_one), (bad_two, good_two) = _placements(*first), _placements(*second)
    if min(len(bad_one), len(good_one)) < 2:
        return None
    gap = float(bad_two.mean() - bad_one.mean())
    variance = (bad_two - bad_one).var(ddof=1) / len(bad_one) + (good_two - good_one).var(ddof=1) / len(good_one)
    error = float(np.sqrt(variance))
    p_value = 1.0 if gap == 0 else 0.0 if error == 0 else float(2 * stats.norm.sf(abs(gap) / error))
    half = float(stats.norm.ppf(0.975)) * error
    return Areas(float(bad_one.mean()), float(bad_two.mean()), gap - half, gap + half, p_value)


def _placements(good: ArrayLike, bad: ArrayLike) -> tuple[Array, Array]:
    """Share of the good ones below each defective one (m,), and of the defective ones above each good one (n,)."""
    low, high = np.asarray(good, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    ranks = stats.rankdata(np.concatenate((high, low)))
    above = (ranks[: len(high)] - stats.rankdata(high)) / max(1, len(low))
    below = 1 - (ranks[len(high) :] - stats.rankdata(low)) / max(1, len(high))
    return above, below
