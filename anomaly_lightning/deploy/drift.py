"""Statistics for the drift monitor in a bundle: the checkpoint's own, or made anew by the exported model."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.card import DriftCard, ModelCard
from anomaly_lightning.runtime.drift import NOT_WATCHED
from anomaly_lightning.runtime.drift_fit import fit_drift
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.training.evaluation import made_again
from anomaly_lightning.training.tested_data import what_to_test

logger = logging.getLogger(__name__)


def drift_of(cfg: DictConfig, folder: Path, card: ModelCard) -> DriftCard | None:
    """What normals measure with the exported model; None, with a word in the log, where they are not at hand.

    Whole numbers of 8 bits give other scores, and a checkpoint of an earlier version has no such statistics: then the
    run's normals are inspected again, whole ones also where the run cut tiles.

    Args:
        cfg: Of the export command.
        folder: The bundle, with its manifest.
        card: Of the exported model.
    """
    if card.drift is not None and cfg.precision != "int8":
        return card.drift
    try:
        splits = made_again(cfg, card, what_to_test(cfg, card), masks=False)[0].splits
    except DataError as error:
        logger.warning("%s (%s)", NOT_WATCHED, error)
        return None
    held_out, trained = ([sample.path for sample in some] for some in (splits.validation, splits.train))
    fitted = fit_drift(Inspector.load(folder, "cpu"), held_out, trained)
    if fitted is None:
        logger.warning("Drift is not watched: %d held-out normals are too few.", len(held_out))
    return fitted
