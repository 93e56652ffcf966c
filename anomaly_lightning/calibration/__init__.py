"""Scores of normals -> threshold, and what that threshold promises: all the statistics of the decision.

Pure functions and small frozen rules over one-dimensional scores; nothing here knows images, detectors or Lightning.
Everywhere the decision is `runtime.decision.exceeds`. Scores stay in their own (raw error) unit, in float64.
"""

from anomaly_lightning.calibration.base import Rule
from anomaly_lightning.calibration.chance import chance_of_alarms
from anomaly_lightning.calibration.folds import fold_indices, on_final_scale
from anomaly_lightning.calibration.result import Calibration, Influence
from anomaly_lightning.calibration.rules import (
    F1,
    Conformal,
    Highest,
    MeanStd,
    Quantile,
    Robust,
    StudentT,
    best_f1_threshold,
)
from anomaly_lightning.calibration.scores import binomial_upper
from anomaly_lightning.calibration.shift import shift_warning

__all__ = [
    "F1",
    "Calibration",
    "Conformal",
    "Highest",
    "Influence",
    "MeanStd",
    "Quantile",
    "Robust",
    "Rule",
    "StudentT",
    "best_f1_threshold",
    "binomial_upper",
    "chance_of_alarms",
    "fold_indices",
    "on_final_scale",
    "shift_warning",
]
