"""Streams drawn from a pool: how often the monitor raises an alarm without a change, and how soon with one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from anomaly_lightning.bench.drift.pools import DEFECTS, Measured, Pool
from anomaly_lightning.runtime.card import DriftCard
from anomaly_lightning.runtime.drift import CONFIRM, DriftMonitor, Observation, counted, shares
from anomaly_lightning.runtime.drift_evidence import Evidence, Reference, bins
from anomaly_lightning.runtime.drift_fit import drift_card
from anomaly_lightning.runtime.drift_measures import LOOKS, MEASURES, THUMBNAIL

K = len(MEASURES)
_LOOKS = np.array([group == LOOKS for group, _ in MEASURES.values()])
SHARE = 0.05  # of defects
FEW, EVERY = f"{SHARE:.0%} defects", "every part defective"
LIMIT = 2000  # images after which a change counts as not found


@dataclass(frozen=True)
class Found:
    """One stream with a change: images from it to the alarm (None = not within 2000), and the cause that was named."""

    images: int | None
    cause: str | None


def cards(pool: Pool, random: np.random.Generator, split: str) -> tuple[DriftCard, Measured]:
    """The monitor's normals, and the images that a stream without a change is drawn from.

    Args:
        pool: Of a category.
        random: Draws the split.
        split: "run", as a run would have it: its held-out normals, the looks of its training normals, and a stream of
            its test normals, which may differ. "random": held-out and test normals together, cut at random, as many for
            the monitor as the run held out: calibration and stream are drawn alike.
    """
    if split == "run":
        known, stream, looks = pool.held_out, pool.tested, pool.looks
    else:
        both = random.permutation(np.concatenate([pool.held_out, pool.tested]))
        known, stream, looks = both[: len(pool.held_out)], both[len(pool.held_out) :], pool.looks[:0]
    rows = [known[:, index] for index in range(K)]
    for row, values in zip(np.flatnonzero(_LOOKS), looks.T, strict=True):
        rows[row] = np.concatenate([rows[row], values])
    return drift_card(rows, np.zeros((THUMBNAIL, THUMBNAIL))), stream


def stable(
    pool: Pool, split: str, streams: int, images: int, per_alarm: int, seed: int = 0, defects: float = 0.0
) -> NDArray[np.int64]:
    """Alarms of each of many streams without a change, (streams,); each is taken back at once, with all that was seen.

    The same ranks, bets and limits as the monitor's, of all streams at once.

    Args:
        pool: Of a category.
        split: See `cards`; each stream has its own.
        streams: How many.
        images: Of each.
        per_alarm: The promise: at most one alarm in so many.
        seed: Of all that is random.
        defects: Share of defects in all streams, from the first image on.
    """
    random = np.random.default_rng(seed)
    starts, places, goods = _tables(pool, random, split, streams)
    reference, evidence = Reference(starts), Evidence(streams, K)
    limits, found, rows = 2 * per_alarm / shares(), np.zeros(streams, np.int64), np.arange(streams)
    bad = places.shape[1] - goods
    for _ in range(images):
        drawn = random.integers(goods)
        if defects and bad.all():
            drawn = np.where(random.random(streams) < defects, goods + random.integers(bad), drawn)
        p = reference.rank(places[rows, drawn], 1 - random.random((streams, K)))
        z = special.ndtri(np.clip(1 - p, 1e-12, 1 - 1e-12))
        over = (evidence.update(z) >= limits).any(axis=1)
        if over.any():
            found += over
            evidence.values[over] = 0.0
    return found


def _tables(
    pool: Pool, random: np.random.Generator, split: str, streams: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Counts to start with (S, K, bins), bins of each stream's images (S, n, K), good ones first, and how many (S,).

    Only the order of the bins counts, so that those that no image has are left out.
    """
    starts, places, goods = [], [], []
    for _ in range(streams):
        card, stream = cards(pool, random, split)
        own = np.concatenate([stream, pool.changed[DEFECTS]])[:, :K]
        at, counts = bins(own, np.array(card.middle), np.array(card.scale)), counted(card)
        dense = [np.unique(np.concatenate([at[:, row], np.flatnonzero(counts[row])])) for row in range(K)]
        start = np.zeros((K, max(map(len, dense))), np.int64)
        for row, there in enumerate(dense):
            start[row, : len(there)] = counts[row][there]
            at[:, row] = np.searchsorted(there, at[:, row])
        starts.append(start)
        places.append(at)
        goods.append(len(stream))
    width = max(start.shape[1] for start in starts)
    padded = [np.pad(start, ((0, 0), (0, width - start.shape[1]))) for start in starts]
    return np.array(padded), np.array(places), np.array(goods)


def changed(
    pool: Pool, split: str, before: int, streams: int, per_alarm: int, seed: int = 0
) -> Iterator[tuple[str, Found]]:
    """Streams with a change after so many images: what kind, and what came of it."""
    for number in range(streams):
        random = np.random.default_rng((seed, number))
        card, normals = cards(pool, random, split)
        monitor = DriftMonitor(card, per_alarm, seed=number)
        for _ in range(before):
            if _shown(monitor, normals, random):
                monitor.reset("seen")
        state = monitor.state()
        for kind in [*(name for name in pool.changed if name != DEFECTS), FEW, EVERY]:
            monitor = DriftMonitor(card, per_alarm, seed=number)
            monitor.restore(state)
            yield kind, _until_alarm(monitor, pool, normals, kind, random)


def _until_alarm(monitor: DriftMonitor, pool: Pool, normals: Measured, kind: str, random: np.random.Generator) -> Found:
    source = pool.changed[DEFECTS if kind in (FEW, EVERY) else kind]
    for number in range(1, LIMIT + 1):
        if _next(monitor, normals, source, kind, random):
            for _ in range(CONFIRM):  # from few images the cause is named again with each
                _next(monitor, normals, source, kind, random)
            assert monitor.alarm is not None
            return Found(number, monitor.alarm.cause)
    return Found(None, None)


def _next(monitor: DriftMonitor, normals: Measured, source: Measured, kind: str, random: np.random.Generator) -> bool:
    return _shown(monitor, normals if kind == FEW and random.random() > SHARE else source, random)


def _shown(monitor: DriftMonitor, source: Measured, random: np.random.Generator) -> bool:
    row = source[random.integers(len(source))]
    return monitor.update(Observation(row[:K], bool(row[K]))) is not None
