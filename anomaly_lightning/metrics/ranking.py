"""Areas and best points of ROC, precision-recall and overlap curves. Numpy only; knows neither images nor pixels.

A curve is what has been called defective while the threshold falls from above the highest score to below the lowest:
cumulative counts (..., K) that start at 0 and end at all. Leading axes are bootstrap resamples, so that a thousand
curves cost one call. Scores enter by their order alone: nothing here squashes, clips or normalises them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Scores in falling order, with equal scores held together.

    Attributes:
        values: the K distinct scores, falling, (K,) float64.
        ends: index behind the last member of each group of equal scores, (K,) int.
        labels: True for anomalous, in falling order of score, (N,) bool.
    """

    values: Array
    ends: npt.NDArray[np.intp]
    labels: npt.NDArray[np.bool_]

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """Cumulative weights of normal and of anomalous members as the threshold falls.

        Args:
            weights: how often each member counts, in falling order of score, (..., N) float64.

        Returns:
            False alarms and hits, (..., K + 1) float64 each; entry k calls the k highest distinct scores defective.
        """
        start = np.zeros((*weights.shape[:-1], 1))
        called = [np.cumsum(weights * kind, axis=-1)[..., self.ends - 1] for kind in (~self.labels, self.labels)]
        return np.concatenate([start, called[0]], -1), np.concatenate([start, called[1]], -1)

    def thresholds(self) -> Array:
        """A threshold for each of the K + 1 entries of `counts`, under the decision `score > threshold`, (K + 1,)."""
        if not self.values.size:
            return np.zeros(1)
        upper, lower = self.values[:-1], self.values[1:]
        middle = upper / 2 + lower / 2
        middle = np.where((middle < upper) & (middle >= lower), middle, lower)  # neighbouring floats have no middle
        return np.concatenate([self.values[:1], middle, [np.nextafter(self.values[-1], -np.inf)]])


def rank(scores: Array, labels: npt.NDArray[np.bool_]) -> Ranking:
    """Sort scores (N,) with their labels (N,); equal scores are held together, so the order given is no matter."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)) + 1, len(falling)) if len(falling) else np.zeros(0, np.intp)
    return Ranking(falling[ends - 1], ends, labels[order])


def area_until(x: Array, y: Array, limit: float = 1.0) -> Array:
    """Area under straight lines through (x, y), from 0 to `limit`, divided by `limit`.

    Args:
        x: shares that never fall, from 0 to 1, (..., K) float64.
        y: heights at x, (..., K) float64.
        limit: where to stop, in units of x; the curve is interpolated there.

    Returns:
        (...) float64; 1 when y is 1 all the way.
    """
    width = np.diff(x, axis=-1)
    kept = np.clip(limit - x[..., :-1], 0, width)
    share = np.divide(kept, width, out=np.zeros_like(width), where=width > 0)
    area: Array = np.sum(kept * (y[..., :-1] + share * np.diff(y, axis=-1) / 2), axis=-1) / limit
    return area


def auroc(false_alarms: Array, hits: Array) -> Array:
    """Area under the ROC curve (...) from cumulative counts (..., K); NaN without normals or without anomalies."""
    return area_until(share(false_alarms), share(hits))


def average_precision(false_alarms: Array, hits: Array, binned: bool = False) -> Array:
    """Sum of precision times gain in recall, as sklearn defines it.

    Args:
        false_alarms: cumulative counts, (..., K) float64.
        hits: cumulative counts, (..., K) float64.
        binned: entries are edges of bins that hold several distinct scores, taken as evenly mixed: precision is that
            at the middle one of each bin's hits, and not at its lower edge, which would be biased downwards.

    Returns:
        (...) float64; NaN without anomalies.
    """
    gained = np.diff(hits, axis=-1)
    tp, fp = hits[..., 1:], false_alarms[..., 1:]
    if binned:
        tp, fp = tp - (gained - 1) / 2, (fp + false_alarms[..., :-1]) / 2
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=gained > 0)
    with np.errstate(invalid="ignore"):
        total: Array = np.sum(gained * precision, axis=-1) / hits[..., -1]
    return total


def best_f1(false_alarms: Array, hits: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """The highest F1 of any entry (...) and the first entry that reaches it (...); F1 is NaN without anomalies."""
    called = false_alarms + hits
    with np.errstate(invalid="ignore"):
        f1 = 2 * hits / (called + hits[..., -1:])
    entry = np.argmax(f1, axis=-1)
    return np.take_along_axis(f1, entry[..., None], -1)[..., 0], entry


def recall_at(false_alarms: Array, hits: Array, rate: float) -> Array:
    """Highest recall (...) of any entry with a false-alarm rate of at most `rate`; no interpolation between entries."""
    # Counts are whole numbers, so the slack undoes nothing but the rounding of rate * normals.
    allowed = false_alarms <= rate * false_alarms[..., -1:] + 1e-9
    return np.max(np.where(allowed, share(hits), -np.inf), axis=-1)


def share(counts: Array) -> Array:
    """Cumulative counts (..., K) over their last entry; NaN when there is nothing to count."""
    with np.errstate(invalid="ignore"):
        result: Array = counts / counts[..., -1:]
    return result


def thin(x: Array, y: Array, points: int) -> npt.NDArray[np.intp]:
    """Indices (<= points,) of the entries to draw: even steps along the curve (K,), both ends kept."""
    if len(x) <= points:
        return np.arange(len(x))
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    steps = np.linspace(0, way[-1], points)
    chosen = np.unique(np.concatenate([[0], np.searchsorted(way, steps[1:-1]), [len(x) - 1]]))
    return chosen.astype(np.intp)
