"""The marks command: writes tables and a backup of a store, and prints what it holds."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from anomaly_lightning.review.exporting import write_manifest, write_table
from anomaly_lightning.review.marks import MARKS
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.decision import VERDICTS


def run(store: str, backup: str | None, table: str | None, manifest: str | None, model: str | None) -> None:
    """Do what was asked for, and print the counts by verdict and mark.

    Args:
        store: The database.
        backup: File for a copy of it.
        table: File for the table of marks.
        manifest: File for the table of marked images.
        model: Whose images those are to be; None = the only model's.

    Raises:
        ReviewError: There is no such store, or a file can't be written.
    """
    console = Console()

    def say(what: str) -> None:
        console.print(what, soft_wrap=True, highlight=False, markup=False)

    with ReviewStore(Path(store)) as known:
        if backup is not None:
            known.backup(Path(backup))
            say(f"backup: {backup}")
        if table is not None:
            say(f"table: {table}, {write_table(known, Path(table))} decisions with a mark")
        if manifest is not None:
            say(f"manifest: {manifest}, {write_manifest(known, Path(manifest), model)} images")
        console.print(counted(known.counts()))
        kept, lacking = known.kept(), known.marked_without_image()
        say(f"images kept: {kept.images}, {kept.bytes / 1e6:.1f} MB; deleted because of the limit: {kept.removed}")
        if lacking:
            say(f"marked, but without an image, so that nothing can be learned of them: {lacking}")


def counted(counts: dict[tuple[str, str | None], int]) -> Table:
    """Table of how many decisions there are by verdict and mark."""
    table = Table(box=None, pad_edge=False)
    table.add_column("verdict")
    columns = [*MARKS, None]
    for mark in columns:
        table.add_column("no mark" if mark is None else mark.replace("_", " "), justify="right")
    for verdict in VERDICTS:
        table.add_row(verdict, *(str(counts.get((verdict, mark), 0)) for mark in columns))
    return table
