"""python -m anomaly_lightning.benchmark: what training and predicting cost on this machine, as ratios."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and write benchmark.json."""
    from anomaly_lightning.bench.measure import measure
    from anomaly_lightning.bench.table import show
    from anomaly_lightning.reports import console

    show(measure(cfg))
    console.places({"benchmark": Path(cfg.run_dir) / "benchmark.json"})


if __name__ == "__main__":
    main()
