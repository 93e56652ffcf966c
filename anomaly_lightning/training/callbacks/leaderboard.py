"""Hydra's side of a sweep: the leaderboard at the end."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.reports.leaderboard import read_rows, show, summarise, write_leaderboard


class LeaderboardCallback(Callback):
    """Writes leaderboard.csv, .md and .html into the folder of a multirun, and prints the table."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather the runs; exits with 1 where one failed, after all have had their turn."""
        folder = Path(config.hydra.sweep.dir)
        board = summarise(read_rows([folder]))
        if not board.rows:
            return
        show(board, write_leaderboard(board, folder), Console())
        failed = [row for row in board.rows if row.error]
        if failed:
            logging.getLogger(__name__).error("%d of %d runs failed; see above.", len(failed), len(board.rows))
            raise SystemExit(1)
