"""What a threshold promised beside what the test set realised, in one line."""

from collections.abc import Mapping
from typing import Any


def promised_and_realised(threshold: Mapping[str, Any], image: Mapping[str, Any] | None) -> str:
    """One line: the false-alarm rate that was promised, what it rests on, and what the test set realised.

    "" where nothing was promised.
    """
    asked = (threshold.get("parameters") or {}).get("alpha")  # of rules that are given a rate
    rate, normals = threshold.get("false_alarm_rate") if asked is None else asked, threshold.get("normals")
    if rate is None or normals is None:
        return ""
    refitted = threshold.get("cross_fitted") or 0
    more = f" and {refitted} cross-fitted training normals" if refitted else ""
    said = f"False alarms: {rate:.1%} promised, resting on {normals - refitted} held-out normals{more}"
    said += f" (rule {threshold.get('method')}, 95 % bound {threshold['false_alarm_upper']:.0%})"
    confusion = (image or {}).get("confusion")
    if not confusion or not confusion["fp"] + confusion["tn"]:
        return f"{said}; the test set holds no good part to try it on."
    alarms, good = confusion["fp"], confusion["fp"] + confusion["tn"]
    low, high = (image or {}).get("ci95", {}).get("false_alarm_rate") or (None, None)
    interval = "" if low is None or high is None else f", 95 % {low:.0%} to {high:.0%}"
    return f"{said}; {alarms / good:.1%} realised ({alarms} of {good} good test images{interval})."
