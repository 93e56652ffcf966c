"""python -m anomaly_lightning.marks store=<marks.db>: what people marked, as tables; a backup of it."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("marks", extra=None)
def main(cfg: DictConfig) -> None:
    """Print what a store holds, after writing what was asked for."""
    from anomaly_lightning.review.command import run

    run(cfg.store, cfg.backup, cfg.table, cfg.manifest, cfg.model_name)


if __name__ == "__main__":
    main()
