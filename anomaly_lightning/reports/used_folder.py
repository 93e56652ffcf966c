"""A folder for the outputs of one command: one that holds those of another is refused, or cleared on request.

Outputs of two runs in one folder make one curve of two in TensorBoard, and leave heatmaps beside those of other images.
Imports nothing heavy, so that a command can look before anything is written.
"""

import shutil
from pathlib import Path

from anomaly_lightning.errors import UsedFolderError

# By command: what tells its outputs from the others', and all that it leaves.
MARKS = {
    "train": ("run.json", "checkpoints", "tensorboard", "history", "error.json", "reused.json"),
    "evaluate": ("evaluation.json", "other_day.json"),
    "predict": ("decisions.csv", "decisions.jsonl", "scoring.json"),
    "audit": ("audit.json",),
    "benchmark": ("benchmark.json",),
}
_TESTED = ("metrics.json", "predictions.csv", "error_maps.npy", "report.html", "heatmaps", "run.log", ".hydra")
_OTHER_DAY = ("other_day.html", "other_day.csv")
CLEARED = {"train": (*MARKS["train"], *_TESTED), "evaluate": (*MARKS["evaluate"], *_TESTED, *_OTHER_DAY)}


def outputs_in(folder: Path) -> dict[str, str]:
    """Commands whose outputs lie in a folder, each with the name of one of them."""
    found = {
        command: next((mark for mark in marks if (folder / mark).exists()), None) for command, marks in MARKS.items()
    }
    if not (found["train"] or found["evaluate"]) and (folder / "metrics.json").exists():
        found["evaluate"] = "metrics.json"  # of an earlier version
    return {command: mark for command, mark in found.items() if mark}


def claim(folder: Path, command: str, overwrite: bool = False, ckpt: Path | None = None) -> None:
    """Make sure that a command may write into a folder.

    `predict`, `audit` and `benchmark` replace what they left before, file by file.

    Args:
        folder: Of the outputs; it need not be there.
        command: Whose they are to be.
        overwrite: Whether to remove what this command left there before; all else stays.
        ckpt: What an interrupted run is to go on from; it may lie in this folder, whose run it then is.

    Raises:
        UsedFolderError: Outputs lie there that would be mixed up with the new ones.
    """
    if command not in MARKS:
        return
    found = outputs_in(folder)
    for other, mark in found.items():
        if other != command:
            raise UsedFolderError(
                f"{folder} holds the outputs of {other} ({mark}), and {command} would mix its own with them. Take "
                "another folder."
            )
    if not found or command not in CLEARED:
        return
    within = ckpt is not None and ckpt.absolute().is_relative_to(folder.absolute())
    if within and overwrite:
        raise UsedFolderError(f"ckpt={ckpt} lies in {folder}, which overwrite=true would clear: leave overwrite out.")
    if within:
        return
    if not overwrite:
        raise UsedFolderError(
            f"{folder} holds the outputs of an earlier {command} ({found[command]}). Take another folder "
            "(hydra.run.dir=<folder>), or clear this one with overwrite=true."
        )
    clear(folder, command)


def clear(folder: Path, command: str, keep: tuple[str, ...] = ()) -> None:
    """Remove what a command leaves in its folder, and nothing else.

    Args:
        folder: Of the outputs.
        command: Whose they are.
        keep: Names that stay.
    """
    for name in set(CLEARED[command]) - set(keep):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
