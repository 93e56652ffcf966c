"""How certain a metric is: stratified percentile bootstrap, and Wilson's interval for plain shares.

Resampling draws good and defective images separately (Davison and Hinkley 1997, section 3.2), so that each resample
has the counts of the test set. Where all resamples agree (a perfect ranking) a percentile interval has no width; that
is what the data says about the resamples, not a proof of certainty. For plain shares such as "0 of 50 good parts were
called defective" Wilson's interval (Wilson 1927) is used instead, which then reads 0 to 7 %; precision is such a
share too, of the images called defective.
"""

from collections.abc import Callable, Mapping

import numpy as np

from anomaly_lightning.metrics.ranking import Array

LEVEL = (0.025, 0.975)
_CELLS_AT_ONCE = 500_000  # resamples x members held in memory together: 4 MB an array, of several


def stratified_weights(strata: Array, times: int, rng: np.random.Generator) -> Array:
    """How often each member is drawn, when every stratum is drawn with replacement to its own size.

    Args:
        strata: the stratum of each member, (N,), any values.
        times: number of resamples.
        rng: source of chance.

    Returns:
        (times, N) float64 whole numbers.
    """
    weights = np.zeros((times, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = len(members)
        drawn = rng.integers(0, size, (times, size)) + size * np.arange(times)[:, None]
        weights[:, members] = np.bincount(drawn.ravel(), minlength=times * size).reshape(times, size)
    return weights


def bootstrap_samples(
    measure: Callable[[Array], Mapping[str, Array]], strata: Array, times: int, seed: int
) -> dict[str, Array]:
    """What several metrics are in each resample.

    Args:
        measure: takes weights (R, N), gives arrays (R, ...) by name; NaN where a resample leaves one undefined.
        strata: the stratum of each member, (N,).
        times: number of resamples, at least 1.
        seed: the same seed gives the same resamples.

    Returns:
        (times, ...) by name.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // len(strata))
    parts = [measure(stratified_weights(strata, min(step, times - done), rng)) for done in range(0, times, step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def bootstrap_intervals(
    measure: Callable[[Array], Mapping[str, Array]], strata: Array, times: int, seed: int
) -> dict[str, list[float]]:
    """95 % percentile intervals of several metrics at once.

    Args:
        measure: as in `bootstrap_samples`, arrays (R,).
        strata: the stratum of each member, (N,).
        times: number of resamples; 0 gives no intervals.
        seed: the same seed gives the same intervals.

    Returns:
        [low, high] by name, only for metrics that are defined in every resample.
    """
    if times == 0 or not len(strata):
        return {}
    return {
        name: [float(bound) for bound in np.quantile(values, LEVEL)]
        for name, values in bootstrap_samples(measure, strata, times, seed).items()
        if not np.isnan(values).any()
    }


def wilson(count: float, total: float) -> list[float]:
    """Wilson's 95 % interval of the share `count` / `total`, as [low, high]; `total` must not be 0."""
    z2 = 1.959963984540054**2
    middle = (count + z2 / 2) / (total + z2)
    half = np.sqrt(z2 * (count * (total - count) / total + z2 / 4)) / (total + z2)
    return [float(max(middle - half, 0.0)), float(min(middle + half, 1.0))]
