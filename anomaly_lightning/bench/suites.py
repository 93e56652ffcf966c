"""Which suite the benchmark command runs."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.bench import table
from anomaly_lightning.bench.measure import measure
from anomaly_lightning.bench.quality import decisions, show
from anomaly_lightning.bench.quality.suite import read_rows, run_suite
from anomaly_lightning.errors import UserError

SUITES = ("speed", "quality")


def run(cfg: DictConfig) -> dict[str, Path]:
    """Run the suite that the config names and print what it found; returns the files it leaves, by name.

    Raises:
        UserError: There is no such suite.
    """
    if cfg.suite not in SUITES:
        raise UserError(f"suite={cfg.suite}: expected one of {', '.join(SUITES)}.")
    if cfg.suite == "speed":
        table.show(measure(cfg))
        return {"benchmark": Path(cfg.run_dir) / "benchmark.json"}
    before = None if cfg.quality.against is None else read_rows(Path(cfg.quality.against))
    rows = run_suite(cfg)
    show.show(rows, before)
    decisions.show(rows)
    return {"quality": Path(cfg.quality.result)}
