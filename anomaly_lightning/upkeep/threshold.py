"""A new threshold by the rule that gave the old one, with as strong a promise, or none at all."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from anomaly_lightning import calibration
from anomaly_lightning.calibration.scores import binomial_upper
from anomaly_lightning.errors import CalibrationError, NotCalibratedError
from anomaly_lightning.runtime.card import ModelCard, ThresholdsCard

MOST = 1_000_000  # normals; a bound that needs more was never met


def thresholds_of(card: ModelCard) -> ThresholdsCard:
    """The thresholds of a model; raises `NotCalibratedError` where it has none."""
    if card.thresholds is None:
        raise NotCalibratedError
    return card.thresholds


def rule_of(known: ThresholdsCard) -> calibration.Rule:
    """The rule that a threshold came from, with its options.

    Raises:
        CalibrationError: This version knows no such rule, or not these options.
    """
    method, options = known.promise.get("method"), known.promise.get("parameters")
    rules = {rule.method: rule for rule in _below(calibration.Rule) if "method" in vars(rule)}
    if method not in rules or not isinstance(options, dict):
        raise CalibrationError(
            f"The model's threshold came from the rule {method!r}; this version knows {', '.join(sorted(rules))}. "
            "Train again, or use the version that wrote the model."
        )
    try:
        return rules[str(method)](**options)
    except TypeError as error:
        raise CalibrationError(
            f"The rule {method} of the model has options that are not known here: {error}."
        ) from error


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for rule in kind.__subclasses__():
        yield rule
        yield from _below(rule)


def needed(rule: calibration.Rule, known: ThresholdsCard) -> int:
    """Fewest normals that can promise as much: what the rule asks for, and what its old bound takes at best.

    A threshold that none of n normals exceeds leaves a bound of 1 - 0.05^(1/n); with fewer of them the promise would
    be weaker however well they score.
    """
    upper = known.promise.get("false_alarm_upper")
    if not isinstance(upper, float) or not 0 < upper < 1:
        return rule.least
    least = math.ceil(math.log(0.05) / math.log1p(-upper))
    while least < MOST and binomial_upper(0, least) > upper * (1 + 1e-9):  # rounding of the formula above
        least += 1
    return max(rule.least, least)


def fit(
    known: ThresholdsCard,
    scores: Sequence[float],
    names: Sequence[str],
    basis: Sequence[str],
    defects: Sequence[float] = (),
) -> ThresholdsCard:
    """Thresholds that differ in the score's alone (and its review band), with what they promise.

    Args:
        known: The old ones.
        scores: Of n normals, raw errors.
        names: What to call each of them.
        basis: What the promise rests on, in sentences.
        defects: Scores of known defects, for a rule that needs some.

    Raises:
        CalibrationError: Too few normals for the rule, or for a promise as strong; the message says how many more.
    """
    rule = rule_of(known)
    least = needed(rule, known)
    if len(scores) < least:
        raise CalibrationError(
            f"{len(scores)} usable normals came, at least {least} are needed for the promise that this model makes "
            f"(rule {rule.method}, at most {known.promise.get('false_alarm_upper', 1.0):.1%} false alarms with 95 % "
            f"confidence): {least - len(scores)} more to go. Nothing was changed."
        )
    made = rule.fit(scores, defects) if isinstance(rule, calibration.F1) else rule.fit(scores)
    return ThresholdsCard(
        score=made.threshold,
        pixel=known.pixel,
        review=made.review,
        promise=made.plain(names, basis),
        scores=tuple(float(score) for score in scores),
    )


def weaker(before: ThresholdsCard, after: ThresholdsCard) -> str | None:
    """Sentence where the new promise is weaker than the old one, else None."""
    old, new = before.promise.get("false_alarm_upper"), after.promise.get("false_alarm_upper")
    if not isinstance(old, float) or not isinstance(new, float) or new <= old:
        return None
    return (
        f"The promise is weaker than before: at most {new:.1%} false alarms (95 % confidence), {old:.1%} before. More "
        "normals would make it stronger."
    )
