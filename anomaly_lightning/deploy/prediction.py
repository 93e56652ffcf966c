"""The predict command: a row, a heatmap and a mask for every image, an error row for those that can't be read."""

import csv
import glob
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from torch import Tensor

from anomaly_lightning.deploy.journal import Journal
from anomaly_lightning.deploy.watching import Watcher, stopping
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.runtime.files import IMAGE_SUFFIXES, images_in, natural_key
from anomaly_lightning.runtime.heatmap import overlay
from anomaly_lightning.runtime.inspector import Prediction, Predictor
from anomaly_lightning.runtime.names import below, distinct, save_image
from anomaly_lightning.runtime.reading import read_image
from anomaly_lightning.training.callbacks.progress import progress_bar

logger = logging.getLogger(__name__)

VERDICTS = ("NG", "REVIEW", "OK", "INVALID")
COLUMNS = ("path", "score", "threshold", "decision", "error", "reason")


def find_images(pattern: str) -> tuple[list[Path], Path]:
    """Images that `input` names, in natural order, and the folder that their outputs' paths are relative to.

    Raises:
        DataError: Nothing is there, or no image is.
    """
    path = Path(pattern).expanduser()
    suffixes = ", ".join(IMAGE_SUFFIXES)
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found = images_in(path, recursive=True)
        if not found:
            raise DataError(f"input={pattern}: the folder holds no image ({suffixes}).")
        return found, path
    names = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - may be absolute
    found = sorted((name for name in names if name.is_file()), key=natural_key)
    if not found:
        raise DataError(f"input={pattern}: there is no such image or folder, and no file matches it as a glob.")
    return found, Path(glob.escape(str(path)).partition("[")[0]).parent


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


class _Writer:
    """Writes what is said of the images, one by one."""

    def __init__(self, predictor: Predictor, output: Path, maps: bool) -> None:
        self.threshold, self.pixel_threshold = (
            float(predictor.module.threshold),
            float(predictor.module.pixel_threshold),
        )
        self.output, self.maps = output, maps

    def files(self, image: Image.Image, prediction: Prediction, name: Path) -> None:
        """Write heatmap, mask and, on request, raw map of one image."""
        drawn = overlay(image, prediction.anomaly_map, self.pixel_threshold)
        self._save(Image.fromarray(drawn), Path("heatmaps") / name)
        self._save(Image.fromarray(prediction.mask.numpy().astype(np.uint8) * 255), Path("masks") / name)
        if self.maps:
            target = self.output / "maps" / name.with_name(f"{name.name}.npy")
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, prediction.anomaly_map.numpy())

    def _save(self, image: Image.Image, name: Path) -> None:
        save_image(image, self.output / name.with_name(f"{name.name}.png"))

    def row(self, path: Path, prediction: Prediction) -> list[object]:
        """Row of decisions.csv for an image that was scored."""
        return [path, repr(prediction.score), repr(self.threshold), prediction.verdict, "", prediction.invalid or ""]

    def line(self, path: Path, prediction: Prediction) -> dict[str, object]:
        """Line of decisions.jsonl for an image that was scored."""
        said = {"decision": prediction.verdict, "score": prediction.score, "threshold": self.threshold}
        return {"path": str(path), **said, "reason": prediction.invalid, "error": None}


def predict(cfg: DictConfig) -> int:
    """Do what the config says; returns how many images could not be read."""
    if cfg.watch is not None:
        return watch(cfg)
    if cfg.input is None:
        raise UserError("Expected input=<image, folder or quoted glob>, or watch=<folder> for images to come.")
    predictor = Predictor.from_checkpoint(cfg.checkpoint, cfg.device, list(cfg.trust), cfg.validity)
    images, base = find_images(str(cfg.input))
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    names, writer = output_names(images, base), _Writer(predictor, output, cfg.maps)
    failed, said = 0, Counter[str]()
    with (output / "decisions.csv").open("w", newline="", encoding="utf-8") as stream, progress_bar() as bar:
        rows = csv.writer(stream)
        rows.writerow(COLUMNS)
        for path, result in bar.track(
            _predictions(predictor, images, cfg.batch_size, cfg.workers),
            total=len(images),
            description="predicting",
        ):
            if isinstance(result, DataError):
                failed += 1
                logger.error("%s", result)
                rows.writerow([path, "", "", "", str(result), ""])
                continue
            image, prediction = result
            said[prediction.verdict] += 1
            writer.files(image, prediction, names[path])
            rows.writerow(writer.row(path, prediction))
            stream.flush()  # what was decided stays, should the disk be full at the next image
    counted = ", ".join(f"{said[verdict]} {verdict}" for verdict in VERDICTS if said[verdict])
    Console().print(
        f"{len(images)} images: {counted or 'none scored'}, {failed} unreadable. "
        f"Decisions, heatmaps and masks: {output}",
        soft_wrap=True,
        highlight=False,
    )
    return failed


def watch(cfg: DictConfig) -> int:
    """Score images as they arrive in `cfg.watch`, a line each in decisions.jsonl, until SIGINT or SIGTERM.

    Returns:
        0: an image that can't be read is a line, and no failure of the watch.
    """
    if cfg.input is not None:
        raise UserError(f"watch={cfg.watch} contradicts input={cfg.input}: state one of them.")
    predictor = Predictor.from_checkpoint(cfg.checkpoint, cfg.device, list(cfg.trust), cfg.validity)
    folder, output = Path(cfg.watch).expanduser().absolute(), Path(cfg.output).absolute()
    journal, writer = Journal(output / "decisions.jsonl"), _Writer(predictor, output, cfg.maps)
    watcher = Watcher(predictor, folder, journal, output, cfg.poll_s, cfg.settle_s, cfg.patience_s)
    console, count = Console(), 0
    console.print(f"watching {folder}; {len(journal.done)} images done before", soft_wrap=True, highlight=False)
    with stopping(watcher.stop):
        for path, which, result in watcher.results():
            count += 1
            if isinstance(result, DataError):
                logger.error("%s", result)
                journal.write(which, {"path": str(path), "decision": None, "error": str(result)})
                continue
            image, said = result
            # With its suffix: a.png and a.jpg may come hours apart, and neither may overwrite the other's heatmap.
            writer.files(image, said, path.relative_to(folder))
            journal.write(which, writer.line(path, said))
    journal.close()
    console.print(f"stopped after {count} images: {output / 'decisions.jsonl'}", soft_wrap=True, highlight=False)
    return 0


Loaded = tuple[Image.Image, Tensor, str | None] | DataError


def _predictions(
    predictor: Predictor, images: list[Path], batch_size: int, workers: int
) -> Iterator[tuple[Path, tuple[Image.Image, Prediction] | DataError]]:
    """Each image with what is said of it, or with why it can't be read; decoding overlaps with scoring."""

    def load(path: Path) -> Loaded:
        try:
            image = read_image(path)
            predictor.check(image, path)
        except DataError as error:
            return error
        return image, predictor.transform(image), predictor.invalid(image)

    if predictor.tiling is not None:  # one large image at a time: its tiles make the batches
        for path in images:
            try:
                image = read_image(path)
            except DataError as error:
                yield path, error
                continue
            yield path, (image, predictor(image))
        return
    with ThreadPoolExecutor(max(1, workers)) as pool:
        chunks = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        ahead = [pool.submit(load, path) for path in chunks[0]]
        for position, chunk in enumerate(chunks):
            loaded = [future.result() for future in ahead]
            ahead = [pool.submit(load, path) for path in chunks[position + 1]] if position + 1 < len(chunks) else []
            good = [item for item in loaded if not isinstance(item, DataError)]
            sizes = [(image.height, image.width) for image, _, _ in good]
            said = iter(predictor.batch([images for _, images, _ in good], sizes) if good else [])
            for path, item in zip(chunk, loaded, strict=True):
                yield path, item if isinstance(item, DataError) else (item[0], replace(next(said), invalid=item[2]))
