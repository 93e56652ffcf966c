"""python -m anomaly_lightning.train: from images of good parts to a calibrated detector, its metrics and heatmaps."""

import logging

from omegaconf import DictConfig

from anomaly_lightning.cli import command

logger = logging.getLogger("anomaly_lightning")


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Train as the config says; returns the best validation loss, for sweepers."""
    from anomaly_lightning.training.session import TrainingSession

    return TrainingSession(cfg).run()


if __name__ == "__main__":
    main()
