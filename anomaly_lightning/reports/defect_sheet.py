"""A contact sheet of defects made on normals, and what share of them can be told from natural variation."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from anomaly_lightning.data import sources
from anomaly_lightning.data.defects import DefectMaker, Made, Recipe
from anomaly_lightning.data.defects.normals import levels_of
from anomaly_lightning.data.white import find_white
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import console
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.compose import plain

ACROSS = 6

logger = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Make `count` images as the config says, write the sheet to `output`, print how well they stand out.

    Raises:
        UserError: A setting without a meaning, or images that can't be read.
    """
    if cfg.count < 1:
        raise UserError(f"count={cfg.count}: expected 1 or more images.")
    data = plain(cfg.data)
    samples = sources.resolve(data, cfg.category.name, Path(cfg.cache.dir)).category.train
    white = find_white(data["white"], [sample.path for sample in samples])
    transform = ImageTransform(data["image_size"], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), data["resize"], white)
    maker = DefectMaker(levels_of(samples, transform), len(samples), Recipe(**plain(cfg.recipe)), cfg.seed)
    made = [maker(number % len(samples), number // len(samples)) for number in range(cfg.count)]
    hidden = np.mean([maker.variation.strength(one.clean, one.image, one.mask) < 1 for one in made])
    output = Path(cfg.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet(made).save(output)
    where = "on the object, which is told from its background" if maker.separable else "anywhere"
    logger.info("Defects lie %s. %.0f %% of the images change less than normals differ.", where, 100 * hidden)
    console.places({"sheet": output})


def sheet(made: Sequence[Made]) -> Image.Image:
    """Columns of the normal, the made image and its mask, `ACROSS` to a row."""
    columns = [np.vstack([one.clean, one.image, np.repeat(one.mask[..., None], 3, 2) * np.uint8(255)]) for one in made]
    columns += [np.zeros_like(columns[0])] * (-len(columns) % min(ACROSS, len(columns)))
    across = min(ACROSS, len(columns))
    rows = [np.hstack(columns[start : start + across]) for start in range(0, len(columns), across)]
    return Image.fromarray(np.vstack(rows))
