"""python -m anomaly_lightning.benchmark: what training, predicting and serving cost here, or how good it is.

With checkpoint=<best.ckpt or bundle> a trained model is measured, from file to verdict; without, a suite is run.
"""

import sys

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("benchmark")
def suite(cfg: DictConfig) -> None:
    """Measure as the config says, print the tables, and say where the results lie."""
    from anomaly_lightning.bench import suites
    from anomaly_lightning.reports import console

    console.places(suites.run(cfg))


@command("benchmark_model", extra=None)
def trained(cfg: DictConfig) -> None:
    """Measure a trained model; exits with 1 where it takes longer than its budget."""
    from anomaly_lightning.bench.deployed import run

    if not run(cfg):
        raise SystemExit(1)


def main() -> None:
    """One of the two, by whether a checkpoint is named."""
    named = any(argument.startswith("checkpoint=") for argument in sys.argv[1:])
    (trained if named else suite)()


if __name__ == "__main__":
    main()
