"""Which suite the benchmark command runs; each prints what it found and returns the files it leaves, by name."""

from pathlib import Path

from omegaconf import DictConfig

from anomaly_lightning.errors import UserError


def run(cfg: DictConfig) -> dict[str, Path]:
    """Run the suite that the config names.

    Raises:
        UserError: There is no such suite.
    """
    if cfg.suite not in SUITES:
        raise UserError(f"suite={cfg.suite}: expected one of {', '.join(SUITES)}.")
    return SUITES[cfg.suite](cfg)


def _speed(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench.measure import measure
    from anomaly_lightning.bench.table import show

    show(measure(cfg))
    return {"benchmark": Path(cfg.run_dir) / "benchmark.json"}


def _service(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench.service import measure, show

    show(measure(cfg))
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


def _drift(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench.drift.show import show
    from anomaly_lightning.bench.drift.suite import measure

    show(measure(cfg))
    return {"drift": Path(cfg.run_dir) / "drift.json"}


def _scale(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench.scale import measure, show

    show(measure(cfg))
    return {"benchmark": Path(cfg.run_dir) / "benchmark.json"}


def _certificates(cfg: DictConfig) -> dict[str, Path]:
    from anomaly_lightning.bench import certificates

    certificates.show(certificates.run_suite(cfg))
    return {"certificates": Path(cfg.certificates.result)}


SUITES = {
    "speed": _speed,
    "service": _service,
    "quality": _quality,
    "certificates": _certificates,
    "drift": _drift,
    "scale": _scale,
}
