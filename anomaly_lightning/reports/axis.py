"""The axis that scores are drawn on, and how many bins it has. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 48
_WIDE = 50.0  # scores spread over more than this factor get a logarithmic axis


def score_axis(scores: Sequence[float], threshold: float | None) -> dict[str, Any]:
    """Range of the score axis, a little wider than the scores and the threshold: low, high, log (whether logarithmic).

    A logarithmic axis where a few scores would squeeze all others into one bin.
    """
    values = [*scores] + ([threshold] if threshold is not None else [])
    low, high = min(values), max(values)
    log = low > 0 and high / low > _WIDE
    if log:
        margin = (high / low) ** 0.03
        return {"low": low / margin, "high": high * margin, "log": True}
    margin = 0.03 * (high - low) or abs(high) * 0.05 or 1.0
    return {"low": low - margin, "high": high + margin, "log": False}


def on_axis(axis: Mapping[str, Any], values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Where values (n,) lie on the score axis, 0 = its low end, 1 = its high end."""
    turn = np.log if axis["log"] else np.asarray
    low, high = turn(axis["low"]), turn(axis["high"])
    placed: npt.NDArray[np.floating] = (turn(values) - low) / (high - low)
    return placed
