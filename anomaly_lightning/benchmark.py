"""python -m anomaly_lightning.benchmark: what training and predicting cost on this machine, as ratios.

With checkpoint=<best.ckpt or bundle> a trained model is measured, from file to verdict; without, all is trained first.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def training(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and write benchmark.json."""
    from anomaly_lightning.bench.measure import measure
    from anomaly_lightning.bench.table import show
    from anomaly_lightning.reports import console

    show(measure(cfg))
    console.places({"benchmark": Path(cfg.run_dir) / "benchmark.json"})


@command("benchmark_model", extra=None)
def trained(cfg: DictConfig) -> None:
    """Measure a trained model; exits with 1 where it takes longer than its budget."""
    from anomaly_lightning.bench.deployed import run

    if not run(cfg):
        raise SystemExit(1)


def main() -> None:
    """One of the two, by whether a checkpoint is named."""
    named = any(argument.startswith("checkpoint=") for argument in sys.argv[1:])
    (trained if named else training)()


if __name__ == "__main__":
    main()
