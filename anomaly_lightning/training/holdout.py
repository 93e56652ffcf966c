"""Takes defects out of a test set, as the holdout command's config says."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.data import sources
from anomaly_lightning.data.holding_out import LABELLED, hold_out
from anomaly_lightning.reports import console
from anomaly_lightning.training.compose import plain


def run(cfg: DictConfig) -> None:
    """Write the folders, print where they lie."""
    category = sources.resolve(plain(cfg.data), cfg.category.name, Path(cfg.cache.dir)).category
    folder = hold_out(category, Path(cfg.output).expanduser(), plain(cfg.counts), cfg.seed, cfg.item)
    console.places({"data.root": folder, "labelled": folder / LABELLED})
