"""python -m anomaly_lightning.compare bundles=[a,b] marks=...: which of two models is better on marked images."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("compare", extra="upkeep")
def main(cfg: DictConfig) -> None:
    """Compare two checkpoints, bundles or versions by paired tests."""
    from anomaly_lightning.upkeep.comparing import compare

    compare(cfg)


if __name__ == "__main__":
    main()
