"""From a score to a verdict: the one place where a score is held against a threshold."""

import math
from typing import Any, Literal

Verdict = Literal["OK", "REVIEW", "NG", "INVALID"]
VERDICTS: tuple[Verdict, ...] = ("NG", "REVIEW", "OK", "INVALID")


def exceeds(score: Any, threshold: Any) -> Any:
    """Whether scores lie above a threshold.

    Args:
        score: A number, an array or a tensor of any shape, raw errors.
        threshold: In the same unit.

    Returns:
        bool, of the shape of `score`.
    """
    return score > threshold


def verdict(score: float, threshold: float, review: float | None = None, reason: str | None = None) -> Verdict:
    """One word for an image.

    Args:
        score: Raw error; NaN, of which nothing is known, is NG.
        threshold: Above it the part is defective: NG.
        review: Lower end of the band below the threshold that goes to an operator: REVIEW; None = no band.
        reason: Why the image is not of the kind that the model knows: INVALID, whatever the score; None = it is.
    """
    if reason is not None:
        return "INVALID"
    if math.isnan(score) or exceeds(score, threshold):
        return "NG"
    return "REVIEW" if review is not None and exceeds(score, review) else "OK"
