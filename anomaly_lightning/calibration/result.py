"""What a calibration is: a threshold with its promise."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

STRONG_INFLUENCE = 0.1  # a tenth of the threshold by one image: the user is warned


@dataclass(frozen=True)
class Influence:
    """The one normal whose removal moves the threshold most.

    Attributes:
        index: Its place in the scores given to `fit`.
        shift: (threshold without it - threshold) / |threshold|; negative where it had pushed the threshold up.
    """

    index: int
    shift: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, how it came to be, and what the normals say about its false alarms.

    Attributes:
        threshold: In the unit of the scores; the decision is `runtime.decision.exceeds`.
        method: Name of the rule.
        parameters: The rule's options: plain numbers, booleans and None.
        normals: How many scores it was fitted on, n.
        mean: Mean of the normals' scores.
        std: Their sample standard deviation (n - 1 in the denominator).
        false_alarm_rate: Expected share of new normals above the threshold. `conformal` and `quantile` put it at a
            fixed rank k of the n normals: then (n + 1 - k) / (n + 1), whatever the scores' distribution (nearly so
            where `quantile` interpolates between two ranks). Others: the leave-one-out share, each normal against the
            threshold refitted without it. None with two normals, where nothing can be left out.
        false_alarm_upper: Upper bound of that share, one-sided, 95 % confidence (Clopper & Pearson 1934). From the
            plain count of normals above a threshold, the bound is valid where the threshold was *not* chosen on the
            same normals; chosen on them, it is still valid at a fixed rank k, from n - floor(k) exceedances (that is
            Wilks' tolerance limit, 1941). The other rules count by leave-one-out as above: then it is approximate,
            and in simulations it held at least as often as it says (tests/test_calibration.py). All of it takes
            normals and new parts drawn alike, and a detector that has not seen these normals. 1.0 with two normals.
        warnings: Sentences for the user.
        review: Lower threshold of the review band, None without one: REVIEW is `review < score <= threshold`.
        review_share: Predicted share of new normals in the review band, <= the budget. None without a band.
        influence: The normal that the threshold depends on most; None with two normals.
    """

    threshold: float
    method: str
    parameters: dict[str, Any]
    normals: int
    mean: float
    std: float
    false_alarm_rate: float | None
    false_alarm_upper: float
    warnings: tuple[str, ...] = ()
    review: float | None = None
    review_share: float | None = None
    influence: Influence | None = None

    @property
    def per_thousand(self) -> tuple[float | None, float]:
        """False alarms per 1,000 good parts: expected, and the upper bound at 95 % confidence."""
        expected = None if self.false_alarm_rate is None else 1000 * self.false_alarm_rate
        return expected, 1000 * self.false_alarm_upper

    def plain(self, names: Sequence[str], basis: Sequence[str]) -> dict[str, Any]:
        """JSON values, for a card: the influential normal by its name, and what the promise rests on.

        Args:
            names: What to call each normal, in the order of the scores given to `fit`.
            basis: What the normals were used for, in sentences.
        """
        values, influence = asdict(self), self.influence_warning(names)
        values["warnings"] = [*self.warnings, *([influence] if influence else [])]
        values["false_alarms_per_thousand"] = list(self.per_thousand)
        values["rests_on"] = list(basis)
        del values["threshold"]
        return values

    def influence_warning(self, names: Sequence[str]) -> str | None:
        """Sentence naming the normal without which the threshold moves by over a tenth, None where there is none.

        Args:
            names: What to call each normal, say its file, in the order of the scores given to `fit`.
        """
        if self.influence is None or abs(self.influence.shift) <= STRONG_INFLUENCE:
            return None
        name, shift = names[self.influence.index], self.influence.shift
        return f"The threshold depends on one normal: without {name} it moves by {shift:+.0%}. Look at that image."
