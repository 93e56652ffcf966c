"""python -m anomaly_lightning.defects category=... data.root=...: a contact sheet of defects made on the normals."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("defects")
def main(cfg: DictConfig) -> None:
    """Make some defects, draw the sheet, and say how well they stand out."""
    from anomaly_lightning.reports.defect_sheet import run

    run(cfg)


if __name__ == "__main__":
    main()
