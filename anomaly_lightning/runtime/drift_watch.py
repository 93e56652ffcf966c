"""A drift monitor beside a running model: it never costs an image its verdict, and keeps what it knows in a file."""

import logging
import threading
from pathlib import Path
from typing import Any

from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime import drift_state
from anomaly_lightning.runtime.card import DriftCard
from anomaly_lightning.runtime.drift import IMAGES_PER_ALARM, NOT_WATCHED, DriftMonitor, Restart
from anomaly_lightning.runtime.drift_cause import Cause
from anomaly_lightning.runtime.inspection import Inspection

logger = logging.getLogger(__name__)

SAVE_EVERY = 200  # images; a crash forgets as many at most
OFF = "Drift is not watched: drift.watch=false."


class DriftWatch:
    """Watches what one model says. All methods may be called from any thread.

    Args:
        card: Of the model's normals; None = it has none, and nothing is watched.
        images_per_alarm: See `DriftMonitor`.
        file: Keeps what is known across restarts, where it can be written; None = nothing is kept. A file of the same
            name with the suffix .reset, which holds a word that `DriftMonitor.reset` takes, resets the monitor.
        watch: Whether to watch at all.

    Attributes:
        monitor: None = nothing is watched.
    """

    def __init__(
        self,
        card: DriftCard | None,
        images_per_alarm: int = IMAGES_PER_ALARM,
        file: Path | None = None,
        watch: bool = True,
    ) -> None:
        self.card, self.file, self._saving = card, file, threading.Lock()
        self.monitor = DriftMonitor(card, images_per_alarm) if watch and card is not None else None
        self._why = NOT_WATCHED if watch else OFF
        if self.monitor is not None and file is not None:
            drift_state.load(self.monitor, file)

    def take(self, said: Inspection) -> Cause | None:
        """Take one image; returns the cause of the alarm that stands now, None where there is none."""
        if self.monitor is None:
            return None
        try:
            self._asked()
            raised = self.monitor.update(self.monitor.observe(said))
            if raised is not None:
                told = "Drift, %s (%s; since about image %d): %s Nothing is recalibrated; look, then reset it."
                logger.warning(told, raised.cause, raised.measure, raised.since, raised.words)
            if raised is not None or self.monitor.images % SAVE_EVERY == 0:
                self.save()
        except Exception:  # whatever is wrong with it, the part gets its verdict
            logger.exception("The drift monitor failed on an image")
        alarm = self.monitor.alarm
        return None if alarm is None else alarm.cause

    def status(self) -> dict[str, Any]:
        """How things stand, as plain JSON values: `watched`, and why not or what the monitor says."""
        if self.monitor is None:
            return {"watched": False, "why": self._why}
        self._asked()
        return self.monitor.status()

    def reset(self, reference: Restart = "seen") -> None:
        """See `DriftMonitor.reset`; raises `UserError` where nothing is watched, too."""
        if self.monitor is None:
            raise UserError(self._why)
        self.monitor.reset(reference)
        logger.warning("The drift monitor was reset: images are compared with %r.", reference)
        self.save()

    def save(self) -> None:
        """Write the file; a disk that does not take it is a line in the log."""
        if self.monitor is None or self.file is None:
            return
        try:
            with self._saving:
                drift_state.save(self.monitor, self.file)
        except OSError as error:
            logger.error("%s: %s. What the drift monitor knows is not kept.", self.file, error.strerror or error)

    def _asked(self) -> None:
        """Do what a person asked for by a file, once: several threads may look."""
        if self.file is None:
            return
        request = self.file.with_suffix(".reset")
        try:
            word: Any = request.read_text(encoding="utf-8").strip()
            request.unlink()
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            logger.error("%s can't be read and removed: %s. The drift monitor is not reset.", request, error)
            return
        try:
            self.reset(word or "seen")
        except UserError as error:
            logger.error("%s: %s", request, error)
