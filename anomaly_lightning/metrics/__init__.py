"""Metrics of the test set: one builder for validation, test and evaluate. Knows neither Lightning nor Hydra."""

from anomaly_lightning.metrics.by_defect import by_defect
from anomaly_lightning.metrics.curves import curves
from anomaly_lightning.metrics.image import image_metrics
from anomaly_lightning.metrics.pixel import PixelMetrics

__all__ = ["PixelMetrics", "by_defect", "curves", "image_metrics"]
