"""Images that were counted, for metrics that need all of them more than once: in memory while they are few."""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from anomaly_lightning.metrics.histogram import Histogram, merged
from anomaly_lightning.metrics.per_image import Image
from anomaly_lightning.metrics.ranking import Array

IN_MEMORY = 64_000_000  # bytes; beyond, they move to a file without a name in the system's temporary folder ($TMPDIR)
ENTRIES = 1_000_000  # bins that are brought together at once: some tens of MB


class Facts(NamedTuple):
    """What is asked of every image so often that it stays in memory.

    Attributes:
        defect: name of its defect type.
        regions: connected regions of its mask.
        normals: its normal pixels, how many.
        called: as `Image` has it, (2,) float64.
    """

    defect: str
    regions: int
    normals: float
    called: Array


class KeptImages:
    """Images in the order in which they came.

    Attributes:
        facts: of each.
    """

    def __init__(self, images: Iterable[Image] = ()) -> None:
        self.facts: list[Facts] = []
        self._places: list[int] = []
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - open as long as this object
        for image in images:
            self.append(image)

    def __len__(self) -> int:
        return len(self.facts)

    def append(self, image: Image) -> None:
        """Keep one more."""
        self.facts.append(Facts(image.defect, image.regions, float(image.normal.weights.sum()), image.called))
        self._places.append(self._file.seek(0, 2))
        pickle.dump(image, self._file, pickle.HIGHEST_PROTOCOL)

    def __iter__(self) -> Iterator[Image]:
        return self.where(lambda facts: True)

    def where(self, wanted: Callable[[Facts], bool]) -> Iterator[Image]:
        """Those whose facts are wanted; the others are not read."""
        for facts, place in zip(self.facts, self._places, strict=True):
            if wanted(facts):
                self._file.seek(place)
                image: Image = pickle.load(self._file)
                yield image


def pooled(images: Iterable[Image]) -> tuple[Histogram, Histogram]:
    """All normal and all anomalous pixels of at least one image."""
    normal, anomalous = Sum(), Sum()
    for image in images:
        normal.add(image.normal)
        anomalous.add(image.anomalous)
    return normal.total(), anomalous.total()


class Sum:
    """The sum of histograms that come one by one, all with the same rows and bins of one width."""

    def __init__(self) -> None:
        self._parts: list[Histogram] = []
        self._entries, self._limit = 0, ENTRIES

    def add(self, histogram: Histogram) -> None:
        """Take in one more."""
        self._parts.append(histogram)
        self._entries += len(histogram.bins)
        if self._entries > self._limit:
            self._parts = [self.total()]
            self._entries = len(self._parts[0].bins)
            self._limit = max(ENTRIES, 2 * self._entries)

    def total(self) -> Histogram:
        """The sum of what came, at least one."""
        return merged(self._parts)
