"""python -m anomaly_lightning.benchmark: what training and predicting cost here, or, suite=quality, how good it is."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and write benchmark.json or the quality suite's result file."""
    from anomaly_lightning.bench import suites
    from anomaly_lightning.reports import console

    console.places(suites.run(cfg))


if __name__ == "__main__":
    main()
