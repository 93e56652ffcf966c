"""Which page a folder gets: report.html where a run left it, scoring.html where predict left a table in Parquet."""

from pathlib import Path

from anomaly_lightning.errors import MissingExtraError


def report_again(folder: str) -> str:
    """Write the page of a folder anew; returns where it lies.

    Args:
        folder: Of a run, or the output of predict with format=parquet, which may be an address.

    Raises:
        UserError: It is neither, or its files contradict each other.
    """
    scored = "://" in folder or (Path(folder).expanduser() / "scoring.json").is_file()
    try:
        if scored:
            from anomaly_lightning.deploy.scale.page import write_scoring_page

            return write_scoring_page(folder)
        from anomaly_lightning.reports.page.rebuild import rebuild

        return str(rebuild(Path(folder).expanduser()))
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"The report of {folder}", error.name, "scale" if scored else "train") from error
