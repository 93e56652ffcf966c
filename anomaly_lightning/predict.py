"""python -m anomaly_lightning.predict checkpoint=... input=... output=...: decisions on new images."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("predict", extra=None)
def main(cfg: DictConfig) -> None:
    """Score an image, a folder or a glob; exits with 1 where an image could not be read."""
    from anomaly_lightning.deploy.prediction import predict

    if predict(cfg):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
