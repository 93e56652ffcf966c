"""Lightning's checkpoints: written no more often than an interruption is worth, and taken along to another folder."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn


class TimedCheckpoint(ModelCheckpoint):
    """Checkpoint at the end of epochs, but not while the one before is younger than so many seconds.

    Where an epoch takes a fraction of a second, writing one after each adds a tenth to it, and saves what is done again
    in no time. The first and the last epoch always leave one. `train_time_interval` and `save_on_exception` of the base
    class would write in the middle of epochs, from where a run does not go on as the uninterrupted one would.

    Args:
        dirpath: Folder of the file.
        filename: Its name, without suffix.
        enable_version_counter: Whether a file that is there is left and a number added to the name.
        at_least_s: Seconds between two of them.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        enable_version_counter: bool = True,
        at_least_s: float = 10.0,
    ) -> None:
        super().__init__(dirpath=dirpath, filename=filename, enable_version_counter=enable_version_counter)
        self.at_least_s = at_least_s
        self._written: float | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, where it is time to."""
        if self._due(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, where it is time to and validation comes after the epoch's end."""
        if self._due(trainer):
            super().on_validation_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._written = time.monotonic()

    def _due(self, trainer: pl.Trainer) -> bool:
        """Whether enough time has passed or nothing follows; the same in every process, which all write together."""
        late = self._written is None or time.monotonic() - self._written >= self.at_least_s
        return bool(trainer.strategy.broadcast(late or _ends(trainer)))


def _ends(trainer: pl.Trainer) -> bool:
    """Whether this epoch is the last one."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return trainer.should_stop or by_epochs or 0 <= steps <= trainer.global_step


class BestCheckpoint(ModelCheckpoint):
    """Checkpoint of the best epoch, of all epochs where an interrupted run goes on in another folder.

    The base class forgets the best score then, and would take the best of the remaining epochs for the best of all.

    Args:
        dirpath: Folder of the file.
        filename: Its name, without suffix.
        monitor: What is to be small.
        save_top_k: Epochs that are kept.
        save_weights_only: Whether the optimizer is left out.
        enable_version_counter: Whether a file that is there is left and a number added to the name.

    Attributes:
        beside: Folder of the last.ckpt that the run goes on from: the best weights are there when the whole run was
            moved.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        save_top_k: int = 1,
        save_weights_only: bool = False,
        enable_version_counter: bool = True,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            save_top_k=save_top_k,
            save_weights_only=save_weights_only,
            enable_version_counter=enable_version_counter,
        )
        self.beside: Path | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of the interrupted run, with its files brought into this run's folder."""
        there, here = state_dict.get("dirpath"), self.dirpath
        if there is not None and here is not None and Path(there) != Path(here):
            state_dict = _brought(state_dict, Path(here), self.beside)
        super().load_state_dict(state_dict)


def _brought(state: dict[str, Any], here: Path, beside: Path | None) -> dict[str, Any]:
    """State with paths in folder `here`, where its files are copied to; as it is where they are not to be had."""
    known = [Path(path) for path in state["best_k_models"]]
    files = [file if beside is None or file.is_file() else beside / file.name for file in known]
    if missing := [file for file in files if not file.is_file()]:
        rank_zero_warn(
            f"ckpt: the best weights of the interrupted run were expected at {missing[0]} and are not there. "
            "The best epoch is chosen among those that follow."
        )
        return state
    _copy({file: here / file.name for file in files})
    moved = {str(file): str(here / file.name) for file in known}
    paths = {name: moved.get(state[name], state[name]) for name in ("best_model_path", "kth_best_model_path")}
    scores = {moved[path]: score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": scores, "dirpath": str(here)}


@rank_zero_only
def _copy(files: dict[Path, Path]) -> None:
    """Copy files (from: to), once for all processes."""
    for old, new in files.items():
        new.parent.mkdir(parents=True, exist_ok=True)
        if old.resolve() != new.resolve():
            shutil.copyfile(old, new)
