"""Training and evaluating from Python: what the commands do, with the same options."""

from pathlib import Path
from typing import Any

from anomaly_lightning.configs import composed
from anomaly_lightning.training import evaluation
from anomaly_lightning.training.session import TrainingSession


def fit(*overrides: str) -> Path:
    """Train as `python -m anomaly_lightning.train` does; returns the run's folder, with checkpoints/best.ckpt.

    Args:
        overrides: As on the command line: fit("category=leather", "model=padim").

    Raises:
        UserError: An option that there is none of, or whatever else keeps the command from its end.
    """
    session = TrainingSession(composed("train", overrides))
    session.run()
    return session.folder


def evaluate(checkpoint: str | Path, *overrides: str) -> dict[str, Any]:
    """Evaluate as `python -m anomaly_lightning.evaluate` does; returns what metrics.json holds.

    Args:
        checkpoint: A run's best.ckpt, or the folder of an exported bundle.
        overrides: As on the command line: evaluate(path, "bootstrap=0").

    Raises:
        UserError: An option that there is none of, or whatever else keeps the command from its end.
    """
    return evaluation.evaluate(composed("evaluate", [f"checkpoint={checkpoint}", *overrides]))
