"""python -m anomaly_lightning.leaderboard outputs/multirun/...: a leaderboard of any folders that hold runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomaly_lightning.errors import UserError
from anomaly_lightning.reports.leaderboard import read_rows, show, summarise, write_leaderboard


def build(folders: Sequence[Path], output: Path) -> None:
    """Write and print the leaderboard of the runs below some folders.

    Raises:
        UserError: A folder does not exist, or none of them holds a run.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"No such folder: {', '.join(missing)}. Expected folders that hold runs, like outputs/train.")
    board = summarise(read_rows(folders))
    if not board.rows:
        listed = ", ".join(str(folder) for folder in folders)
        raise UserError(f"No run below {listed}: expected folders with run.json and metrics.json at any depth.")
    output.mkdir(parents=True, exist_ok=True)
    show(board, write_leaderboard(board, output), Console())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 with one paragraph where the folders are not what was expected."""
    parser = argparse.ArgumentParser(
        prog="python -m anomaly_lightning.leaderboard",
        description="Put the figures of many runs side by side: leaderboard.csv, .md and .html.",
    )
    searched = "searched for runs at any depth; output=FOLDER says where to write, else the first one"
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help=searched)
    given = parser.parse_args(arguments).folders
    folders = [Path(text.removeprefix("runs=")) for text in given if not text.startswith("output=")]
    outputs = [Path(text.removeprefix("output=")) for text in given if text.startswith("output=")]
    if not folders or len(outputs) > 1:
        parser.error("expected one folder or more to read, and output=FOLDER once at most")
    try:
        build(folders, outputs[0] if outputs else folders[0])
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
