"""Hydra's side of a sweep: what a failing job leaves, and the leaderboard at the end."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.leaderboard import (
    COLUMNS,
    cells,
    mean_row,
    read_row,
    run_folders,
    write_leaderboard,
)

SHOWN = ("category", "model", "backbone", "seed", "f1", "f1_floor", "f1_oracle", "auroc", "aupro", "total_s", "error")


class LeaderboardCallback(Callback):
    """Writes leaderboard.csv and leaderboard.md into the folder of a multirun, and prints the table."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather the runs; exits with 1 where one failed, after all have had their turn."""
        folder = Path(config.hydra.sweep.dir)
        rows = [read_row(run) for run in run_folders([folder])]
        if not rows:
            return
        written = write_leaderboard(rows, folder)
        console = Console()
        console.print(_table([cells(row) for row in (*rows, mean_row(rows))]))
        console.print("leaderboard:", *written, soft_wrap=True, highlight=False)
        failed = [row for row in rows if row.error]
        if failed:
            logging.getLogger(__name__).error("%d of %d runs failed; see their rows.", len(failed), len(rows))
            raise SystemExit(1)


def _table(rows: list[list[str]]) -> Table:
    table = Table(title="leaderboard", title_justify="left")
    for column in SHOWN:
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = dict(zip(COLUMNS, row, strict=True))
        table.add_row(*(texts[column] for column in SHOWN))
    return table
