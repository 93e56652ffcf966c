"""python -m anomaly_lightning.report run=outputs/train/...: the report of a run, or of a large set that was scored."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("report", modules=("jinja2",))
def main(cfg: DictConfig) -> None:
    """Write the page anew and print its path."""
    from anomaly_lightning.reports import console
    from anomaly_lightning.reports.again import report_again

    console.places({"report": report_again(str(cfg.run))})


if __name__ == "__main__":
    main()
