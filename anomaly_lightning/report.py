"""python -m anomaly_lightning.report run=outputs/train/...: a run's report again, from the files that it left."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("report")
def main(cfg: DictConfig) -> None:
    """Write report.html anew and print its path."""
    from anomaly_lightning.reports import console
    from anomaly_lightning.reports.page.rebuild import rebuild

    console.places({"report": rebuild(Path(cfg.run).expanduser())})


if __name__ == "__main__":
    main()
