"""python -m anomaly_lightning.benchmark: what training, predicting and serving cost here, or how good it is."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and say where the results lie."""
    from anomaly_lightning.bench import suites
    from anomaly_lightning.reports import console

    console.places(suites.run(cfg))


if __name__ == "__main__":
    main()
