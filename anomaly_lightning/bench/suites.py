"""Which suite the benchmark command runs; each prints what it found and returns the files it leaves, by name."""

from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.errors import UserError


def run(cfg: DictConfig) -> dict[str, Path]:
    """Run the suite that the config names.

    Raises:
        UserError: There is no such suite.
    """
    if cfg.suite in OTHERS:
        return OTHERS[cfg.suite](cfg)
    if cfg.suite not in MEASURED:
        raise UserError(f"suite={cfg.suite}: expected one of {', '.join([*MEASURED, *OTHERS])}.")
    measuring, showing = (import_module(name) for name in MEASURED[cfg.suite])
    showing.show(measuring.measure(cfg))
    return {"benchmark": Path(cfg.run_dir) / "benchmark.json"}


def _quality(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench.quality import decisions, reach, show
    from anomaly_lightning.bench.quality.suite import read_rows, run_suite

    before = None if cfg.quality.against is None else read_rows(Path(cfg.quality.against))
    rows = run_suite(cfg)
    show.show(rows, before)
    decisions.show(rows)
    reach.show(rows)
    return {"quality": Path(cfg.quality.result)}


def _certificates(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench import certificates

    certificates.show(certificates.run_suite(cfg))
    return {"certificates": Path(cfg.certificates.result)}


# Modules whose `measure` does what the config says and writes benchmark.json, and whose `show` prints it.
MEASURED = {
    "speed": ("anomaly_lightning.bench.measure", "anomaly_lightning.bench.table"),
    "service": ("anomaly_lightning.bench.service",) * 2,
    "drift": ("anomaly_lightning.bench.drift.suite", "anomaly_lightning.bench.drift.show"),
    "scale": ("anomaly_lightning.bench.scale",) * 2,
}
OTHERS = {"quality": _quality, "certificates": _certificates}
