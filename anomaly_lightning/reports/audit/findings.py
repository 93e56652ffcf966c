"""From facts to findings: what is wrong, with which images, and what may be left out of training for it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.data.duplicates import near_duplicates, same_content
from anomaly_lightning.data.intake import UNMATCHED
from anomaly_lightning.data.mask_check import check_masks
from anomaly_lightning.data.samples import Sample
from anomaly_lightning.data.sources import Resolved
from anomaly_lightning.reports.audit.facts import Facts, readable
from anomaly_lightning.runtime.appearance import Statistics

# Kind of finding: what it means, in words.
KINDS = {
    "unreadable": "can't be read",
    "leak": "a training image is in the test set, too",
    "near_leak": "a training image is in the test set, too, written anew",
    "contradiction": "one image under two names of defects",
    "duplicate": "the same file more than once",
    "near_duplicate": "one image, written more than once",
    "misnamed": "the suffix is not that of the file's format",
    "size": "another size than most",
    "mode": "another colour mode than most",
    "brightness": "much brighter or darker than most",
    "contrast": "much more or less contrast than most",
    "sharpness": "much sharper or more blurred than most",
    "mask_unreadable": "a mask can't be read",
    "mask_shared": "one mask for several images",
    "mask_several": "several masks for one image",
    "mask_as_image": "masks among the images",
    "mask_unmatched": "masks that belong to no image",
    "mask_unfit": "the mask is of another size than its image: left out of the pixel metrics",
    "mask_missing": "images of defects without a mask: left out of the pixel metrics",
    "mask": "the mask is odd",
    "listed_twice": "a table names a file more than once: the first row counts",
    "left_out": "files that are no data",
    "looks_anomalous": "a normal that looks unlike the other normals",
}
TINY = 1e-3
ODD_Z = 6.0  # robust standard deviations from the median of the training normals
FEW = 0.1  # a mode that fewer than this share of the images have is a finding
SIZE_MARGIN = 0.05  # log of the ratio of two heights or widths up to which they count as one size
EXCLUDES = ("unreadable", "leak", "near_leak", "duplicate", "near_duplicate", "brightness", "contrast", "sharpness")


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: One of `KINDS`.
        paths: The images that it is about.
        words: What was found.
        exclude: Those of them that are better left out.
    """

    kind: str
    paths: tuple[Path, ...]
    words: str
    exclude: tuple[Path, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """Plain kind, words and paths."""
        return {"kind": self.kind, "words": self.words, "paths": [str(path) for path in self.paths]}


def file_findings(facts: Sequence[Facts]) -> list[Finding]:
    """What is wrong with single files: unreadable, misnamed, of an odd size or mode."""
    found = [_of("unreadable", item, str(item.reason)) for item in facts if item.reason is not None]
    good = readable(facts)
    found += [_of("misnamed", item, f"holds {item.form}") for item in good if item.misnamed]
    return found + _odd_sizes(good) + _odd_modes(good)


def duplicate_findings(facts: Sequence[Facts]) -> list[Finding]:
    """Equal files and near duplicates, inside and across training and test."""
    good = readable(facts)
    hashes = [item.content for item in good]
    found = [_twice([good[i] for i in group], "duplicate", "leak") for group in same_content(hashes)]
    thumbs = np.stack([item.thumb for item in good]) if good else np.zeros((0, 1, 1), np.float32)  # type: ignore[misc]
    pairs = near_duplicates(thumbs, hashes)
    return found + [_twice([good[i], good[j]], "near_duplicate", "near_leak") for i, j in pairs]


def intake_findings(resolved: Resolved) -> list[Finding]:
    """Which masks are unclear, and what lies beside the data."""
    found = [Finding(t.kind, t.paths, t.words, t.exclude) for t in resolved.troubles]
    for group in resolved.left_out:
        found.append(Finding("mask_unmatched" if group.why == UNMATCHED else "left_out", group.paths, group.words()))
    return found


def with_clear_masks(resolved: Resolved) -> list[Sample]:
    """Test samples but for those of which `intake_findings` says that their masks are unclear."""
    unclear = {path for trouble in resolved.troubles for path in trouble.exclude}
    unclear |= {trouble.paths[-1] for trouble in resolved.troubles if trouble.kind == "mask_several"}
    return [sample for sample in resolved.category.test if unclear.isdisjoint({sample.path, sample.mask})]


def mask_findings(samples: Sequence[Sample]) -> list[Finding]:
    """What is wrong with the masks of test samples, every mask read. One that counts for nothing is better left out."""
    check = check_masks(samples)
    found = [Finding("mask_unreadable", (mask,), why, (mask,)) for mask, why in check.unreadable.items()]
    found += [Finding("mask_unfit", (mask,), why, (mask,)) for mask, why in check.unfit.items()]
    if check.missing:
        words = f"{len(check.missing)} of {check.defects} images of defects have no mask"
        found.append(Finding("mask_missing", tuple(check.missing), words))
    return found + [Finding("mask", (), words) for words in check.remarks]


def outlier_findings(facts: Sequence[Facts], limit: float = ODD_Z) -> list[Finding]:
    """Good parts whose brightness, contrast or sharpness lies far from that of the training normals."""
    normals = [item for item in readable(facts) if not item.sample.label]
    known = [item for item in normals if item.role == "train"]
    if len(known) < 5:
        return []
    found = []
    for kind, value, floor, unit in (
        ("brightness", lambda s, _: s.brightness, 2.0, "mean level"),
        ("contrast", lambda s, _: np.log(s.contrast + TINY), 0.05, "log of the contrast"),
        ("sharpness", lambda _, sharpness: np.log(sharpness + TINY), 0.1, "log of the sharpness"),
    ):
        values, reference = _values(normals, value), _values(known, value)
        for item, z, x in zip(normals, robust_z(values, floor, reference), values, strict=True):
            if abs(z) > limit:
                side = "above" if z > 0 else "below"
                words = f"{unit} {x:.3g}, {abs(z):.1f} robust standard deviations {side} the median"
                found.append(_of(kind, item, words))
    return found


def _values(items: Sequence[Facts], value: Callable[[Statistics, float], float]) -> np.ndarray:
    values = [value(item.statistics, item.sharpness) for item in items if item.statistics is not None]
    return np.array(values, dtype=np.float64)


def robust_z(values: NDArray[np.float64], floor: float, reference: NDArray[np.float64] | None = None) -> NDArray:
    """How many robust standard deviations each of (N,) values lies from the median of `reference` (the values).

    Args:
        values: (N,).
        floor: Smallest standard deviation that is believed: identical values have none.
        reference: (M,) values whose median and 1.4826 * median absolute deviation count.
    """
    known = values if reference is None else reference
    middle = np.median(known)
    spread = 1.4826 * np.median(np.abs(known - middle))
    return np.asarray((values - middle) / max(spread, floor))


def _of(kind: str, item: Facts, words: str) -> Finding:
    """Finding about one file, which is left out where its kind says so: from the test only what can't be read."""
    leave = (item.path,) if kind == "unreadable" or (kind in EXCLUDES and item.role == "train") else ()
    return Finding(kind, (item.path,), words, leave)


def _odd_sizes(facts: Sequence[Facts]) -> list[Finding]:
    """Files whose height or width is far from the commonest size; crops vary by a few pixels."""
    sizes = [(item.statistics.height, item.statistics.width) for item in facts if item.statistics is not None]
    if len(sizes) < 1 / FEW:
        return []
    height, width = Counter(sizes).most_common(1)[0][0]
    odd = [max(abs(np.log(h / height)), abs(np.log(w / width))) > SIZE_MARGIN for h, w in sizes]
    if sum(odd) > len(odd) / 2:  # images of all sizes: none of them is odd
        return []
    return [
        _of("size", item, f"{w}x{h}; most are {width}x{height}")
        for item, (h, w), is_odd in zip(facts, sizes, odd, strict=True)
        if is_odd
    ]


def _odd_modes(facts: Sequence[Facts]) -> list[Finding]:
    """Files of a colour mode that few share."""
    modes = Counter(item.mode for item in facts)
    if len(facts) < 1 / FEW:
        return []
    common = modes.most_common(1)[0][0]
    rare = [item for item in facts if modes[item.mode] < FEW * len(facts)]
    return [_of("mode", item, f"{item.mode}; most are {common}") for item in rare]


def _twice(group: Sequence[Facts], inside: str, across: str) -> Finding:
    """Finding about one image under several names: all copies but one go; of one in both sets, those in training."""
    roles, defects = {item.role for item in group}, {item.sample.defect for item in group}
    paths = tuple(item.path for item in group)
    training = tuple(item.path for item in group if item.role == "train")
    names = " = ".join(str(path) for path in paths)
    if len(roles) > 1:
        return Finding(across, paths, names, training)
    if len(defects) > 1 and inside == "duplicate":
        return Finding("contradiction", paths, f"{names}, as {' and '.join(sorted(defects))}")
    return Finding(inside, paths, names, paths[1:] if len(defects) == 1 else ())
