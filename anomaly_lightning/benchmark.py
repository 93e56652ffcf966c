"""python -m anomaly_lightning.benchmark: what training and predicting cost on this machine, as ratios."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command

logger = logging.getLogger("anomaly_lightning")


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and write benchmark.json."""
    from anomaly_lightning.bench.measure import measure
    from anomaly_lightning.bench.table import show

    show(measure(cfg))
    logger.info("all figures: %s", Path(cfg.run_dir) / "benchmark.json")


if __name__ == "__main__":
    main()
