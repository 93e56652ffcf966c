"""python -m anomaly_lightning.cache [action=show|clear|trim]: what the cache of features holds, and less of it."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("cache", extra=None)
def main(cfg: DictConfig) -> None:
    """Show the cache, after clearing or trimming it where that was asked for."""
    from anomaly_lightning.reports import cache

    cache.run(cfg)


if __name__ == "__main__":
    main()
