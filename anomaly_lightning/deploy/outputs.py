"""What predict leaves: which images it is about, what their outputs are called, and what is written of each."""

import csv
import glob
import logging
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from anomaly_lightning.data.intake import LeftOut, left_out_below
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, OWN, images_in, is_image, is_own_output, natural_key
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.names import below, distinct, save_image

logger = logging.getLogger(__name__)

COLUMNS = ("path", "score", "threshold", "decision", "error", "reason")
REGION_COLUMNS = ("path", "number", "left", "top", "width", "height", "area", "peak")


def find_images(pattern: str) -> tuple[list[Path], Path]:
    """Images that `input` names, in natural order, and the folder that their outputs' paths are relative to.

    A folder and a glob take the same files: those named like images, less hidden ones and the outputs of runs; how
    many were left out is logged. A glob may name a hidden folder, and a single file is taken whatever its name.

    Raises:
        DataError: Nothing is there, or no image is.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found = images_in(path, recursive=True)
        for group in left_out_below([path]):
            logger.warning("%s", group.words())
        if not found:
            raise DataError(f"input={pattern}: the folder holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        return found, path
    return _matching(path), Path(glob.escape(str(path)).partition("[")[0]).parent


def _matching(pattern: Path) -> list[Path]:
    """Images that a glob names, each once, the outputs of runs left out.

    Raises:
        DataError: Nothing matches, or no image does.
    """
    base = Path(glob.escape(str(pattern)).partition("[")[0]).parent
    names = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207 - may be absolute
    files = [name for name in names if name.is_file()]
    if not files:
        raise DataError(f"input={pattern}: there is no such image or folder, and no file matches it as a glob.")
    images = [name for name in files if is_image(name)]
    own = [
        name for name in images if any(is_own_output(p) for p in name.parents if p != base and p.is_relative_to(base))
    ]
    groups = ((OWN, own), ("not named like an image", [name for name in files if not is_image(name)]))
    for group in (LeftOut(why, tuple(paths)) for why, paths in groups if paths):
        logger.warning("%s", group.words())
    # A link to a folder above makes one file match under ever longer names.
    ways = {name.resolve(): name for name in sorted(images, key=lambda name: -len(name.parts)) if name not in set(own)}
    if not ways:
        raise DataError(f"input={pattern}: no file that matches is an image ({', '.join(IMAGE_SUFFIXES)}).")
    return sorted(ways.values(), key=natural_key)


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
    """Writes heatmaps, masks and, on request, raw maps below one folder."""

    def __init__(self, folder: Path, maps: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.maps = folder, maps

    def files(self, said: Inspection, name: Path) -> None:
        """Write heatmap, mask and, on request, raw map of one image.

        Args:
            said: Of the image.
            name: Path of the outputs below the folders of each kind, without the suffix that is added.
        """
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


def as_json(path: Path, said: Inspection) -> dict[str, Any]:
    """What decisions.jsonl says of an image that was scored."""
    regions = [{"box": list(region.box), "area": region.area, "peak": region.peak} for region in said.regions]
    known = {"path": str(path), "decision": said.verdict, "score": said.score, "threshold": said.threshold}
    return {**known, "regions": regions, "reason": said.reason, "error": None}
