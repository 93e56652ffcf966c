"""python -m anomaly_lightning.export checkpoint=... output=<folder>: a bundle that a line runs without torch."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("export", extra="export")
def main(cfg: DictConfig) -> None:
    """Write a bundle that was compared with the checkpoint on real images; nothing is kept where it differs."""
    from anomaly_lightning.deploy.exporting import export

    export(cfg)


if __name__ == "__main__":
    main()
