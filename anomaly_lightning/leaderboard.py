"""python -m anomaly_lightning.leaderboard runs=outputs/multirun/...: the metrics of many runs side by side."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("leaderboard")
def main(cfg: DictConfig) -> None:
    """Write leaderboard.csv, .md and .html, and print the table."""
    from anomaly_lightning.reports.leaderboard import leaderboard_of

    runs = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    folders = [Path(str(folder)).expanduser() for folder in runs]
    leaderboard_of(folders, folders[0] if cfg.output is None else Path(str(cfg.output)).expanduser())


if __name__ == "__main__":
    main()
