"""From a score to a verdict: the one place where a score is held against a threshold."""

import math
from typing import Any, Literal

Verdict = Literal["OK", "REVIEW", "NG", "INVALID"]
VERDICTS: tuple[Verdict, ...] = ("NG", "REVIEW", "OK", "INVALID")

# How far above a threshold a score has to lie to exceed it, as a share of the threshold. A threshold is often the score
# of one normal, and the same image scores a little differently in a batch of another size (4e-7 to 3e-6 relative were
# met), on another device, or in an exported model (about 1e-5, 1e-4 at worst): without a margin that very normal would
# be called defective, or not, by the batch that it came in. The margin only ever takes false alarms away, so what a
# threshold promises holds; a defect within a ten-thousandth of the threshold could not be told from a normal anyway.
MARGIN = 1e-4


def limit(threshold: Any) -> Any:
    """What a score has to be above to exceed a threshold: the threshold and its margin, of the same shape."""
    return threshold + MARGIN * abs(threshold)


def exceeds(score: Any, threshold: Any) -> Any:
    """Whether scores, or the pixels of maps, lie above a threshold by more than `MARGIN` of it.

    Args:
        score: A number, an array or a tensor of any shape, raw errors.
        threshold: In the same unit.

    Returns:
        bool, of the shape of `score`.
    """
    return score > limit(threshold)


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
