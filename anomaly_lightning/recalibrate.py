"""python -m anomaly_lightning.recalibrate bundle=... normals=...: a threshold from new normals, as a new version."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("recalibrate", extra="upkeep")
def main(cfg: DictConfig) -> None:
    """Write the next version of a bundle, which differs in its threshold alone."""
    from anomaly_lightning.upkeep.recalibrating import recalibrate

    recalibrate(cfg)


if __name__ == "__main__":
    main()
