"""python -m anomaly_lightning.benchmark: what training, predicting and serving cost on this machine, as ratios."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and write benchmark.json."""
    from anomaly_lightning.bench import suite
    from anomaly_lightning.reports import console

    measure, show = suite(cfg.suite)

    show(measure(cfg))
    console.places({"benchmark": Path(cfg.run_dir) / "benchmark.json"})


if __name__ == "__main__":
    main()
