"""python -m anomaly_lightning.update checkpoint=... normals=...: new normals into a model's statistics, no training."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("update")
def main(cfg: DictConfig) -> None:
    """Write a checkpoint that knows the new normals, and with bundle= the next version of that bundle."""
    from anomaly_lightning.upkeep.updating import update

    update(cfg)


if __name__ == "__main__":
    main()
