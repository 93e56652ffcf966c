"""python -m anomaly_lightning.holdout category=... data.root=... output=...: some defects to learn from."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("holdout")
def main(cfg: DictConfig) -> None:
    """Write the category without them, and folders of them."""
    from anomaly_lightning.training.holdout import run

    run(cfg)


if __name__ == "__main__":
    main()
