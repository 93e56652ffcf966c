"""Points of the ROC and precision-recall curves of whole images, few enough to draw."""

import numpy as np
from torch import Tensor

from anomaly_lightning.metrics import ranking as r
from anomaly_lightning.metrics.checks import scores_and_labels

Points = dict[str, list[float]]


def curves(scores: Tensor, labels: Tensor, points: int = 500) -> dict[str, Points | None]:
    """ROC and precision-recall curves, thinned along their length where they have more points than asked for.

    Args:
        scores: raw and unbounded, larger = more anomalous, (N,) float.
        labels: True for defective, (N,) bool.
        points: the most points a curve may have.

    Returns:
        "roc": {"false_alarm_rate", "recall", "threshold"}, "pr": {"recall", "precision", "threshold"}: lists of one
        length, the threshold falling; `score > threshold` gives the point. A curve is None unless there are good and
        defective images.

    Raises:
        ValueError: scores are NaN or infinite, or shapes or dtypes differ from the above.
    """
    ranked = r.rank(*scores_and_labels(scores, labels))
    fp, tp = ranked.counts(np.ones(len(ranked.labels)))
    if not (fp[-1] and tp[-1]):
        return {"roc": None, "pr": None}
    thresholds = ranked.thresholds()
    false_alarm_rate, recall = r.share(fp), r.share(tp)
    # Precision starts behind the first entry: where nothing is called it is undefined.
    precision = tp[1:] / (tp + fp)[1:]
    roc, pr = r.thin(false_alarm_rate, recall, points), r.thin(recall[1:], precision, points)
    return {
        "roc": _points(roc, false_alarm_rate=false_alarm_rate, recall=recall, threshold=thresholds),
        "pr": _points(pr, recall=recall[1:], precision=precision, threshold=thresholds[1:]),
    }


def _points(kept: np.ndarray, **columns: r.Array) -> Points:
    return {name: column[kept].tolist() for name, column in columns.items()}
