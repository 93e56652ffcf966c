"""The decision in words, and how numbers are written: from metrics.json and run.json, nothing computed anew."""

from collections.abc import Mapping
from typing import Any

from anomaly_lightning.runtime.promise import of_hundred

DASH = "\u2013"
UNDEFINED = "unknown"

IMAGE = {
    "precision": "Precision: share of the alarms that are defects",
    "recall": "Recall: share of the defects that are found",
    "f1": "F1",
    "f1_floor": "F1 floor: calling everything defective",
    "f1_oracle": "F1 oracle: the best that any threshold could reach on these images; for comparison only",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy: mean of recall and the share of good images not called defective",
    "balanced_accuracy_oracle": "Balanced accuracy oracle: the best that any threshold could reach",
    "false_alarm_rate": "False-alarm rate",
    "miss_rate": "Miss rate",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "recall_at_false_alarm_rate.0.01": "Recall with at most 1 % false alarms",
    "recall_at_false_alarm_rate.0.05": "Recall with at most 5 % false alarms",
    "pg2": "PG2: share of good images not called defective with at most 2 % of defects missed",
}
PIXEL = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "aupro": "AUPRO until 30 % false alarms",
    "aupro_005": "AUPRO until 5 % false alarms",
    "aupro_256": "AUPRO until 30 % false alarms, all images at 256 x 256 pixels",
    "f1": "SegF1: F1 of all pixels at the pixel threshold",
    "f1_oracle": "F1 oracle: the best that any pixel threshold could reach; for comparison only",
    "iou": "IoU at the pixel threshold",
    "aupimo": "AUPIMO: overlap of each defect image at 1e-5 to 1e-4 false alarms",
}
BLOCKS = ("image", "pixel", "by_defect")  # of metrics.json; a note under another name is about the whole run
DEFECT = {"recall": "Recall", "auroc": "AUROC", "pixel_auroc": "Pixel AUROC"}


def number(value: Any) -> str:
    """A number to read: four digits, whole numbers as they are, a dash where there is none."""
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def share(value: float) -> str:
    """A share in [0, 1] with three decimals."""
    return f"{value:.3f}"


def found(image: Mapping[str, Any] | None, notes: Mapping[str, str]) -> str:
    """How many of the test set's defects were found."""
    confusion = (image or {}).get("confusion")
    if not confusion:
        return f"Nothing is known about finding defects: {reason(notes, 'image.confusion', 'image')}."
    defects = confusion["tp"] + confusion["fn"]
    if not defects:
        return "The test set holds no defects, so nothing is known about finding them."
    return f"Of {_were(defects, 'defect', confusion['tp'])} found{_interval(image, 'recall')}."


def alarms_met(image: Mapping[str, Any] | None) -> str:
    """How many of the test set's good parts were called defective; "" where there are none."""
    confusion = (image or {}).get("confusion")
    if not confusion or not confusion["fp"] + confusion["tn"]:
        return ""
    good, alarms = confusion["fp"] + confusion["tn"], confusion["fp"]
    called = _were(good, "good part", alarms)
    return f"Of the test set's {called} called defective{_interval(image, 'false_alarm_rate')}."


def _interval(image: Mapping[str, Any] | None, name: str) -> str:
    bounds = (image or {}).get("ci95", {}).get(name)
    return f" (95 %: {of_hundred(bounds[0])} to {of_hundred(bounds[1])} of 100)" if bounds else ""


def _were(total: int, word: str, count: int) -> str:
    return f"{total} {word}{'' if total == 1 else 's'} {count} {'was' if count == 1 else 'were'}"


def cautions(metrics: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """What the reader should know before believing the metrics."""
    threshold, image = metrics["threshold"], metrics["image"] or {}
    said = []
    if image.get("above_floor") is False:
        said.append(_sentence(metrics["notes"]["image.above_floor"]))
    low = image.get("ci95", {}).get("false_alarm_rate", [0.0])[0]
    if low > (threshold.get("false_alarm_upper") or 1.0):
        said.append(
            "The test set shows more false alarms than the validation normals promised: "
            "its good parts seem to differ from those that the threshold was fitted on."
        )
    said += [str(warning) for warning in threshold.get("warnings") or []]
    skipped = {} if "skipped" in metrics["notes"] else run.get("skipped") or {}
    said += [f"Left out, because it can't be read: {path} ({why})" for path, why in skipped.items()]
    said += [_sentence(why) for name, why in metrics["notes"].items() if name.partition(".")[0] not in BLOCKS]
    return said


def rests_on(metrics: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """What the validation normals behind the promise were used for, in sentences; [] where nothing is known of it."""
    thresholds = (run.get("card") or {}).get("thresholds") or {}
    return list((thresholds.get("promise") or metrics["threshold"]).get("rests_on") or [])


def threshold_made(threshold: Mapping[str, Any]) -> str:
    """How the threshold came to be, in one or two sentences."""
    if threshold.get("method") is None or threshold.get("value") is None:
        return "No threshold was calibrated."
    settings = {key: value for key, value in (threshold.get("parameters") or {}).items() if value not in (None, False)}
    listed = ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
    made = (
        f"{number(threshold['value'])}, by the rule {threshold['method']}{f' ({listed})' if listed else ''}, "
        f"from the scores of {threshold['normals']} validation normals: mean {number(threshold['mean'])}, "
        f"standard deviation {number(threshold['std'])}. No test image had a say in it."
    )
    if threshold.get("review") is not None:
        made += (
            f" Scores from {number(threshold['review'])} up to it are for review: "
            f"an expected {of_hundred(threshold['review_share'])} of 100 good parts."
        )
    return made


def reason(notes: Mapping[str, str], *names: str) -> str:
    """Why a metric is undefined: the note of the first of the names that has one."""
    return next((notes[name] for name in names if name in notes), UNDEFINED)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")
