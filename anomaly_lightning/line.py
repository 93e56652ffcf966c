"""python -m anomaly_lightning.line bundle=... source=... sinks=[...]: inspect what a line produces, as it comes."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("line", extra=None)
def main(cfg: DictConfig) -> None:
    """Inspect until the source ends or SIGTERM; exits with 1 where a line was not written or not delivered."""
    from anomaly_lightning.deploy.line.command import run_line

    if run_line(cfg, instantiate):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
