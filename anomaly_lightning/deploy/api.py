"""Exporting from Python: what the command does, with the same options."""

from pathlib import Path

from anomaly_lightning.configs import composed
from anomaly_lightning.deploy import exporting


def export(checkpoint: str | Path, output: str | Path, *overrides: str) -> Path:
    """Export as `python -m anomaly_lightning.export` does; returns the bundle's folder.

    Args:
        checkpoint: A run's best.ckpt.
        output: The folder that is written.
        overrides: As on the command line: export(path, "bundle", "parity.images=/some/folder").

    Raises:
        UserError: An option that there is none of, or whatever else keeps the command from its end.
    """
    given = [f"checkpoint={checkpoint}", f"output={output}", *overrides]
    return exporting.export(composed("export", given))
