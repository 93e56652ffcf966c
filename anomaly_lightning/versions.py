"""python -m anomaly_lightning.versions bundle=... [action=rollback to=1]: which there are, and the way back."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("versions", extra=None)
def main(cfg: DictConfig) -> None:
    """List the versions of a bundle, after a rollback where that was asked for."""
    from anomaly_lightning.upkeep import listing

    listing.run(cfg)


if __name__ == "__main__":
    main()
