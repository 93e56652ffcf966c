"""python -m anomaly_lightning.audit category=... data.root=...: what a folder of images holds, before training."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("audit")
def main(cfg: DictConfig) -> None:
    """Audit what `train` would use; exits with 1 where something serious was found."""
    from anomaly_lightning.reports.audit.run import Audit

    if Audit(cfg).run():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
