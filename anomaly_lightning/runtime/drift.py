"""Watches a stream of inspected images and says when it is no longer what it was, and what has changed. No torch.

It promises at most one false alarm in `images_per_alarm` images while nothing changes: calibration normals and images
of the stream are drawn alike and independently. Each measure has its share of the promise, and an alarm comes from the
first whose evidence exceeds twice the number of images over its share. By the union bound, a false alarm comes within m
images with a probability of at most m / (2 images_per_alarm), so that the mean number of images until one is at least
`images_per_alarm`. Nothing is ever adapted by itself: after an alarm nothing is learned until a person resets it.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.errors import CheckpointError, UserError
from anomaly_lightning.runtime.card import DriftCard
from anomaly_lightning.runtime.drift_cause import WORDS, Cause, cause
from anomaly_lightning.runtime.drift_evidence import BINS, Evidence, Reference, bins, scores
from anomaly_lightning.runtime.drift_measures import MEASURES, THUMBNAIL, measures
from anomaly_lightning.runtime.inspection import Inspection

IMAGES_PER_ALARM = 10_000
WINDOW = 200  # images that the cause is looked for in, at most
CONFIRM = 30  # images since the change that its cause is named from; from fewer ones it is named again with each
NOT_WATCHED = (
    "Drift is not watched: the model's card holds no statistics of its normals for it. Train again with drift=true, or "
    "export the checkpoint again where the images of its run are at hand (data.root=...)."
)
Row = tuple[NDArray[np.float64], NDArray[np.float64], bool]  # normal scores (K,), distances (K,), invalid
Restart = Literal["seen", "calibration", "line"]
RESTARTS: tuple[Restart, ...] = get_args(Restart)


@dataclass(frozen=True)
class Observation:
    """What the monitor takes from one inspected image.

    Attributes:
        values: (K,) float64, measures.
        invalid: Whether the image is not of the kind that the model knows.
    """

    values: NDArray[np.float64]
    invalid: bool


@dataclass(frozen=True)
class Alarm:
    """What has changed.

    Attributes:
        cause: One of `drift_cause.CAUSES`; it may change until 30 images since the change have been seen.
        words: What to look at.
        measure: The one whose evidence raised the alarm.
        since: Images before the change, as far as that can be told.
        image: Number of the image that raised it, from 1.
        time: When, ISO 8601 in UTC.
    """

    cause: Cause
    words: str
    measure: str
    since: int
    image: int
    time: str


class Observer:
    """Takes from an inspection what the monitor looks at; may be used from several threads.

    Raises:
        CheckpointError: The card was written by another version, with other measures.
    """

    def __init__(self, card: DriftCard) -> None:
        if card.measures != tuple(MEASURES):
            raise CheckpointError(
                f"The model's drift statistics are of {list(card.measures)}, this version looks at {list(MEASURES)}; "
                "switch it off with drift.watch=false, or export the checkpoint again."
            )
        self._thumbnail = np.array(card.thumbnail).reshape(THUMBNAIL, THUMBNAIL)

    def __call__(self, said: Inspection) -> Observation:
        """Observation of one image."""
        return Observation(measures(said, self._thumbnail), said.reason is not None)


class DriftMonitor:
    """Watches one stream. All methods may be called from any thread.

    Args:
        card: Of the normals.
        images_per_alarm: At most one false alarm in so many images, on average.
        seed: Of the random numbers that break ties.

    Attributes:
        alarm: The alarm that stands until a reset; None = nothing has changed as far as is known.
        images: Images since the start, of all processes where the state was kept.

    Raises:
        UserError: `images_per_alarm` is below 10.
    """

    def __init__(self, card: DriftCard, images_per_alarm: int = IMAGES_PER_ALARM, seed: int = 0) -> None:
        if images_per_alarm < 10:
            raise UserError(f"drift.images_per_alarm={images_per_alarm}: expected 10 or more images.")
        self.card, self.images_per_alarm, self._lock = card, images_per_alarm, threading.Lock()
        self.observe, self._seed = Observer(card), seed
        self._middle, self._scale = np.array(card.middle), np.array(card.scale)
        self._limits = 2 * images_per_alarm / shares()
        self.alarm: Alarm | None = None
        self.images, self.alarms, self.progress = 0, 0, 0.0
        self.reference, self.evidence = Reference(counted(card)), Evidence(len(MEASURES))
        self.window: deque[Row] = deque(maxlen=WINDOW)
        self._random = np.random.default_rng((seed, 0))

    def update(self, seen: Observation) -> Alarm | None:
        """Take one image; returns the alarm that it raised, None where it raised none or one stands already."""
        with self._lock:
            self.images += 1
            if self.alarm is not None:
                self._look_again(seen, self.alarm)
                return None
            z = self._ranked(seen, remember=True)
            progress = np.log1p(self.evidence.update(z)) / np.log1p(self._limits)
            self.progress = float(progress.max())
            if self.progress >= 1:
                self.alarm = self._alarm(int(progress.argmax()))
                self.alarms += 1
            return self.alarm

    def reset(self, reference: Restart = "seen") -> None:
        """Take the alarm back and gather evidence anew; a person's decision.

        Args:
            reference: What images are compared with from now on: "seen", the calibration normals and all images so
                far, where nothing had changed or the cause is repaired; "calibration", the calibration normals alone;
                "line", only what comes from now on, where the present state is as it is meant to be.

        Raises:
            UserError: It is none of these.
        """
        if reference not in RESTARTS:
            raise UserError(f"drift reset {reference!r}: expected one of {', '.join(RESTARTS)}.")
        with self._lock:
            self.alarm = None
            self._restart(reference)

    def status(self) -> dict[str, Any]:
        """How things stand, as plain JSON values."""
        with self._lock:
            return {
                "watched": True,
                "images_per_alarm": self.images_per_alarm,
                "images": self.images,
                "compared_with": int(self.reference.sizes.min()),
                "evidence": round(min(1.0, self.progress), 3),
                "alarm": None if self.alarm is None else asdict(self.alarm),
            }

    def state(self) -> dict[str, Any]:
        """All that a later process has to know to go on: arrays, numbers and text by name."""
        with self._lock:
            rows = list(self.window)
            known = {"images": self.images, "alarms": self.alarms, "progress": self.progress}
            return {
                **known,
                "alarm": None if self.alarm is None else asdict(self.alarm),
                "counts": self.reference.counts,
                **{f"evidence_{name}": np.array(value) for name, value in vars(self.evidence).items()},
                "window_scores": np.array([row[0] for row in rows]).reshape(-1, len(MEASURES)),
                "window_distances": np.array([row[1] for row in rows]).reshape(-1, len(MEASURES)),
                "window_invalid": np.array([row[2] for row in rows], np.bool_),
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; of a monitor of the same card."""
        with self._lock:
            self.images, self.alarms = int(state["images"]), int(state["alarms"])
            self.progress = float(state["progress"])
            self.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])
            self.reference = Reference(state["counts"])
            for name in vars(self.evidence):
                value = state[f"evidence_{name}"]
                setattr(self.evidence, name, int(value) if name == "images" else np.array(value))
            rows = zip(state["window_scores"], state["window_distances"], state["window_invalid"].tolist(), strict=True)
            self.window.clear()
            self.window.extend(rows)
            self._random = np.random.default_rng((self._seed, self.images))

    def _restart(self, reference: Restart) -> None:
        if reference != "seen":
            normals = counted(self.card)
            self.reference = Reference(normals if reference == "calibration" else np.zeros_like(normals))
        self.evidence, self.progress = Evidence(len(MEASURES)), 0.0
        self.window.clear()
        self._random = np.random.default_rng((self._seed, self.images))

    def _ranked(self, seen: Observation, remember: bool) -> NDArray[np.float64]:
        """Normal scores of an image, (K,), which is then in the window."""
        ties = 1 - self._random.random(len(MEASURES))
        z = scores(self.reference.rank(bins(seen.values, self._middle, self._scale), ties, remember))
        self.window.append((z, (seen.values - self._middle) / self._scale, seen.invalid))
        return z

    def _alarm(self, measure: int) -> Alarm:
        recent = self.evidence.images - self.evidence.since(measure)
        found, now = self._cause(recent, measure), datetime.now(UTC).isoformat(timespec="milliseconds")
        return Alarm(found, WORDS[found], list(MEASURES)[measure], self.images - recent, self.images, now)

    def _look_again(self, seen: Observation, alarm: Alarm) -> None:
        """Name the cause anew while few images tell it: an alarm may come after two."""
        recent = self.images - alarm.since
        if recent > CONFIRM:
            return
        self._ranked(seen, remember=False)
        found = self._cause(recent, list(MEASURES).index(alarm.measure))
        self.alarm = replace(alarm, cause=found, words=WORDS[found])

    def _cause(self, recent: int, measure: int) -> Cause:
        z, distances, invalid = (np.array(values) for values in zip(*list(self.window)[-recent:], strict=True))
        return cause(z, distances, invalid, measure)


def shares() -> NDArray[np.float64]:
    """Each measure's share of the promise, (K,): each group has as much as any other."""
    groups = [group for group, _ in MEASURES.values()]
    found = np.array([1 / groups.count(group) for group in groups])
    return found / found.sum()


def counted(card: DriftCard) -> NDArray[np.int64]:
    """How many normals have each value of each measure: (K, 512)."""
    counts = np.zeros((len(card.measures), BINS), np.int64)
    for row, (values, middle, scale) in enumerate(zip(card.normals, card.middle, card.scale, strict=True)):
        np.add.at(counts[row], bins(np.array(values), np.array(middle), np.array(scale)), 1)
    return counts
