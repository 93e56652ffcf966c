"""What predict leaves: what the outputs of each image are called, and what is written of it."""

import csv
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.names import below, distinct, save_image

COLUMNS = ("path", "score", "threshold", "decision", "error", "reason")
REGION_COLUMNS = ("path", "number", "left", "top", "width", "height", "area", "peak")


def output_names(images: list[Path], base: Path) -> dict[Path, Path]:
    """Path of each image's outputs below the output folder, without suffix; distinct for all."""
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for image in images:
        relative = below(image, base)
        name = relative.with_suffix("")
        if name in taken:
            name = distinct(relative.with_name(relative.name.replace(".", "_")), taken)
        taken.add(name)
        names[image] = name
    return names


class Outputs:
    """Writes heatmaps, masks and, on request, raw maps below one folder.

    Args:
        folder: Is made where it is not there.
        maps: Whether to write raw maps.
        heatmaps: Of which images: "all", "ng", or "none".
    """

    def __init__(self, folder: Path, maps: bool, heatmaps: str = "all") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.maps, self.heatmaps = folder, maps, heatmaps

    def files(self, said: Inspection, name: Path) -> None:
        """Write heatmap, mask and, on request, raw map of one image.

        Args:
            said: Of the image.
            name: Path of the outputs below the folders of each kind, without the suffix that is added.
        """
        if self.heatmaps == "all" or (self.heatmaps == "ng" and said.verdict == "NG"):
            self._save(Image.fromarray(said.heatmap()), Path("heatmaps") / name)
        self._save(Image.fromarray(said.mask.astype(np.uint8) * 255), Path("masks") / name)
        if self.maps:
            target = self.folder / "maps" / name.with_name(f"{name.name}.npy")
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, said.anomaly_map)

    def _save(self, image: Image.Image, name: Path) -> None:
        save_image(image, self.folder / name.with_name(f"{name.name}.png"))


class Tables:
    """decisions.csv and regions.csv, as they grow: a context that closes both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._open = folder, ExitStack()

    def __enter__(self) -> "Tables":
        opened = [
            self._open.enter_context((self.folder / name).open("w", newline="", encoding="utf-8"))
            for name in ("decisions.csv", "regions.csv")
        ]
        self._streams = opened
        self._decisions, self._regions = (csv.writer(stream) for stream in opened)
        self._decisions.writerow(COLUMNS)
        self._regions.writerow(REGION_COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open.close()

    def inspected(self, path: Path, said: Inspection) -> None:
        """Rows of an image that was scored."""
        row = [path, repr(said.score), repr(said.threshold), said.verdict, "", said.reason or ""]
        self._decisions.writerow(row)
        for number, region in enumerate(said.regions, start=1):
            self._regions.writerow([path, number, *region.box, region.area, repr(region.peak)])
        for stream in self._streams:
            stream.flush()  # what was decided stays, should the disk be full at the next image

    def failed(self, path: Path, error: DataError) -> None:
        """Row of an image that can't be read."""
        self._decisions.writerow([path, "", "", "", str(error), ""])
