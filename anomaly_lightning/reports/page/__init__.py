"""report.html: one self-contained page a run, for whoever has to believe the metrics and look at the images."""

from anomaly_lightning.reports.page.content import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "write_report"]
