"""Metrics of many runs side by side: of a multirun, or of any folders that hold runs.

Reading order: rows (what the runs left) -> summary (seeds, means) -> files, html, terminal (what people read).
"""

from anomaly_lightning.reports.leaderboard.files import leaderboard_of, write_leaderboard
from anomaly_lightning.reports.leaderboard.rows import Row, read_rows
from anomaly_lightning.reports.leaderboard.summary import Leaderboard, Summary, summarise
from anomaly_lightning.reports.leaderboard.terminal import show

__all__ = ["Leaderboard", "Row", "Summary", "leaderboard_of", "read_rows", "show", "summarise", "write_leaderboard"]
