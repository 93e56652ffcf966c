"""What a threshold promises, in words: the same on every page that shows one."""

from collections.abc import Mapping
from typing import Any


def of_hundred(rate: float) -> str:
    """A rate as so many of 100, whole."""
    return f"{100 * rate:.0f}"


def promise(threshold: Mapping[str, Any]) -> str:
    """What the validation normals say about false alarms to come."""
    upper, rate = threshold.get("false_alarm_upper"), threshold.get("false_alarm_rate")
    if upper is None:
        return "How many good parts will be called defective is not known: no threshold was calibrated."
    interval = f"(95 %: 0 to {of_hundred(upper)})"
    if rate is None:
        return f"How many of 100 good parts will be called defective can't be said from so few normals {interval}."
    if rate == 0:
        return f"Of 100 good parts probably none will be called defective {interval}."
    about = "fewer than 1" if rate < 0.005 else f"about {of_hundred(rate)}"
    return f"Of 100 good parts {about} will be called defective {interval}."
