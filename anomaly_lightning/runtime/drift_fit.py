"""Statistics of the normals for the drift monitor, by the very path that images take on a line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_lightning.runtime.appearance import image_statistics
from anomaly_lightning.runtime.card import DriftCard
from anomaly_lightning.runtime.drift_measures import DECIMALS, MEASURES, layout, of_looks, of_map, thumbnail
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.reading import read_image

FEWEST = 2  # held-out normals, and normals at all; the promise holds for any number, but a spread needs two
MOST = 100  # of each; the stream itself adds to them
_TO_SIGMA = 1.4826  # from a median absolute deviation to the standard deviation of a normal distribution


def fit_drift(inspector: Inspector, held_out: Sequence[Path], trained: Sequence[Path]) -> DriftCard | None:
    """Inspect normals and keep what they measured; None with fewer than 2 held-out ones.

    The errors of images that a model was trained on are smaller than those of others: measures of the map come from
    held-out normals alone. Measures of the looks do not depend on the model, and come from all normals.

    Args:
        inspector: Of the model that will be watched.
        held_out: Images of good parts that the model was not trained on, whole ones where it takes tiles.
        trained: Images of good parts that it was trained on.
    """
    if len(held_out) < FEWEST:
        return None
    chosen, others = _spread(held_out), _spread(trained)
    said = [each for each in inspector.stream(chosen) if isinstance(each, Inspection)]
    maps = np.array([of_map(each) for each in said])
    looks = [(of_looks(each.appearance), thumbnail(each.image)) for each in said]
    for path in others:
        image = read_image(path, white=inspector.transform.white)
        looks.append((of_looks(image_statistics(image)), thumbnail(image)))
    thumbnails = np.array([cells for _, cells in looks])
    whole = np.column_stack([np.array([values for values, _ in looks]), left_out(thumbnails)])
    return drift_card([*maps.T, *whole.T], thumbnails.mean(axis=0))


def drift_card(normals: Sequence[NDArray[np.float64]], mean_thumbnail: NDArray[np.float64]) -> DriftCard:
    """The card of normals' measures.

    Args:
        normals: Values of each measure, in the order of `MEASURES`: K arrays (n,), whose lengths may differ.
        mean_thumbnail: (16, 16).
    """
    middle = [float(np.median(values)) for values in normals]
    spreads = [_TO_SIGMA * float(np.median(np.abs(v - m))) for v, m in zip(normals, middle, strict=True)]
    scale = [max(spread, least) for spread, (_, least) in zip(spreads, MEASURES.values(), strict=True)]
    rows = tuple(_rounded(values) for values in normals)
    return DriftCard(tuple(MEASURES), _rounded(middle), _rounded(scale), _rounded(mean_thumbnail.ravel()), rows)


def left_out(thumbnails: NDArray[np.float64]) -> NDArray[np.float64]:
    """Layout of each of n normals by the mean of the others, (n,): as that of an image that is in no mean."""
    total, others = thumbnails.sum(axis=0), len(thumbnails) - 1
    return np.array([layout(cells, (total - cells) / others) for cells in thumbnails])


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most `MOST` of the paths, evenly chosen."""
    if len(paths) <= MOST:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, MOST).round().astype(int)]


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(np.asarray(values, np.float64), DECIMALS).tolist())
