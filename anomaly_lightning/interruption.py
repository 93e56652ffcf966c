"""Ctrl-C and SIGTERM: the work stops, one line says what is left and how to go on, and the status tells the shell.

The statuses are those of shells, 128 and the signal's number, so that what follows a command with && is not run.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from anomaly_lightning.reports.used_folder import outputs_in
from anomaly_lightning.runtime.signals import handled
from anomaly_lightning.words import command_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST = Path("checkpoints") / "last.ckpt"  # below a run's folder


class Work:
    """What a command is doing in this process, as far as an interruption has to tell.

    Attributes:
        command: Its name.
        words: As they were typed.
        folder: Where its outputs lie; None until that is known.
        sweep: Whether it is one job of several.
        received: The signal that came; None while there is none.
    """

    def __init__(self, command: str, words: Sequence[str]) -> None:
        self.command, self.words = command, list(words)
        self.folder: Path | None = None
        self.sweep = False
        self.received: int | None = None
        self._process = os.getpid()

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; Lightning, too, takes the exception for the user's wish, and clears up."""
        if os.getpid() != self._process:  # a worker that was forked off: it has nothing to tell
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number
        raise KeyboardInterrupt

    def words_of_farewell(self) -> str:
        """What was interrupted, what is left of it, and the command that goes on."""
        name = signal.Signals(self.received or signal.SIGINT).name
        return f"Interrupted ({name}): {self._left()}"

    def _left(self) -> str:
        again = command_line(self.command, self.words)
        if self.sweep:
            return f"this sweep is cut off. The same command goes on, and takes over finished runs: {again}"
        if self.command == "train" and self.folder is not None:
            last = (self.folder / LAST).absolute()
            if last.is_file():
                kept = [word for word in self.words if word.partition("=")[0] not in ("ckpt", "overwrite")]
                return f"{last} holds what was done. To go on: {command_line(self.command, [*kept, f'ckpt={last}'])}"
            return f"there is no {last} yet to go on from. To start again: {self._anew()}"
        if self.command == "predict" and self.folder is not None and (self.folder / "decisions.csv").is_file():
            decided = self.folder / "decisions.csv"
            return f"{decided} holds the decisions so far, and not those of all images. To do all of them: {again}"
        if self.command == "predict" and self.folder is not None and (self.folder / "scoring.json").is_file():
            return f"{self.folder / 'rows'} holds what was scored. The same command does what is missing: {again}"
        return f"{self.command} has not finished. To start again: {self._anew()}"

    def _anew(self) -> str:
        """The command once more; a folder that was named holds something by now, which is in its way."""
        named = any(word.startswith(("hydra.run.dir=", "run_dir=")) for word in self.words)
        used = self.folder is not None and bool(outputs_in(self.folder))
        more = ["overwrite=true"] if named and used and "overwrite=true" not in self.words else []
        return command_line(self.command, [*self.words, *more])


@contextmanager
def interruptible(work: Work) -> Iterator[None]:
    """Within it a signal ends the work with one line and status 130 (SIGINT) or 143 (SIGTERM).

    Whatever is raised after a signal came is part of the shutting down. Outside of the main thread, where Python lets
    nobody handle signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with handled(dict.fromkeys(SIGNALS, work.stop)):
            yield
    except BaseException as error:
        if work.received is None and not isinstance(error, KeyboardInterrupt):
            raise
        if leads():
            sys.stderr.write(f"\n{work.words_of_farewell()}\n")
        raise SystemExit(128 + (work.received or signal.SIGINT)) from None


def leads() -> bool:
    """Whether this is the first of the processes that share a run, by what launchers tell them."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
