"""The compare command: two models on the same marked images, and whether one is better or it can't be told."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from anomaly_lightning.calibration.realised import interval
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.reports.console import wide
from anomaly_lightning.reports.run_folder import write_text
from anomaly_lightning.runtime.decision import exceeds
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.upkeep import images
from anomaly_lightning.upkeep.paired import Areas, Discordant, delong, mcnemar

LEVEL = 0.05  # that any of the three tests errs


@dataclass(frozen=True)
class Comparison:
    """Two models on n good and m defective images.

    Attributes:
        names: What the models are called.
        false_alarms: Good parts that one alone calls defective.
        misses: Defective parts that one alone lets pass.
        areas: Their rankings; None with fewer than two images of either kind.
        totals: n and m.
        counts: False alarms and misses of each model.
    """

    names: tuple[str, str]
    false_alarms: Discordant
    misses: Discordant
    areas: Areas | None
    totals: tuple[int, int]
    counts: tuple[tuple[int, int], tuple[int, int]]

    @property
    def level(self) -> float:
        """What a p-value has to be below: 5 % for all tests together (Bonferroni)."""
        return LEVEL / 3

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "level": self.level, "verdict": self.words}

    @property
    def words(self) -> str:
        """Which is better, or that it can't be told."""
        kinds = (("raises fewer false alarms", self.false_alarms), ("misses fewer defects", self.misses))
        better = {what: self._fewer(found) for what, found in kinds if found.p_value < self.level}
        said = " and ".join(f"{self.names[index]} {what}" for what, index in better.items())
        if len(set(better.values())) == 2:
            return f"Neither is better in all: {said}. Which mistakes cost more decides."
        if better:
            return f"{self.names[next(iter(better.values()))]} is better: it {' and '.join(better)} (beyond chance)."
        if self.areas is not None and self.areas.p_value < self.level:
            name = self.names[self.areas.second > self.areas.first]
            return (
                f"{name} ranks better (AUROC {self.areas.first:.3f} and {self.areas.second:.3f}), but the decisions do "
                "not differ beyond chance: the thresholds are what to look at."
            )
        differ = sum(found.first + found.second for _, found in kinds)
        return (
            f"It can't be told which is better: they err differently on {differ} of {sum(self.totals)} images, "
            f"{self.false_alarms.first + self.misses.first} times {self.names[0]} alone and "
            f"{self.false_alarms.second + self.misses.second} times {self.names[1]} alone, which chance explains."
        )

    @staticmethod
    def _fewer(found: Discordant) -> int:
        return 0 if found.first < found.second else 1


def compare(cfg: DictConfig) -> Comparison:
    """Do what the config says.

    Raises:
        UserError: Not two models, or no images to compare them on.
    """
    models = [str(name) for name in cfg.bundles]
    if len(models) == 1 and not Path(models[0]).exists():
        models = models[0].split(",")  # bundles=a,b is one word to Hydra
    if len(models) != 2:
        raise UserError(f"bundles={models}: expected two, like bundles=[line-3,line-3@latest].")
    known = images.labelled(cfg.normals, cfg.defects, cfg.marks, cfg.model_name)
    if not known.normals and not known.defects:
        raise DataError("Expected images to compare on: marks=<marks.db>, or normals=<folder> and defects=<folder>.")
    inspectors = [Inspector.load(Path(name).expanduser(), cfg.device, list(cfg.trust)) for name in models]
    paths, console = [*known.normals, *known.defects], Console()
    scored = [_readable(inspector, paths) for inspector in inspectors]
    bad = np.array([path in set(known.defects) for path in paths])
    found = compared(_names(models), scored, [one.thresholds.score for one in inspectors], bad)
    wide(table(found))
    console.print(found.words, highlight=False, soft_wrap=True, markup=False)
    if cfg.output is not None:
        target = Path(cfg.output).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        content = found.plain() | {"bundles": models, "images": [str(path) for path in paths]}
        write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")
        console.print(f"{target}", highlight=False, soft_wrap=True, markup=False)
    return found


def compared(
    names: tuple[str, str], scores: Sequence[Sequence[float]], thresholds: Sequence[float], bad: np.ndarray
) -> Comparison:
    """Hold two models side by side.

    Args:
        names: What to call them.
        scores: Of each model, for the same n images.
        thresholds: Of each model.
        bad: (n,) bool, which of the images show a defect.
    """
    values = [np.asarray(one, dtype=np.float64) for one in scores]
    called = [exceeds(one, threshold) for one, threshold in zip(values, thresholds, strict=True)]
    first, second = ((int(one[~bad].sum()), int((~one[bad]).sum())) for one in called)
    return Comparison(
        names,
        mcnemar(called[0][~bad], called[1][~bad]),
        mcnemar(~called[0][bad], ~called[1][bad]),
        delong((values[0][~bad], values[0][bad]), (values[1][~bad], values[1][bad])),
        (int((~bad).sum()), int(bad.sum())),
        (first, second),
    )


def table(found: Comparison) -> Table:
    """A row a model, and the p-values below."""
    drawn = Table(box=None, pad_edge=False)
    for name in ("model", "false alarms", "misses", "AUROC"):
        drawn.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    areas = ("", "") if found.areas is None else (f"{found.areas.first:.4f}", f"{found.areas.second:.4f}")
    for name, counts, area in zip(found.names, found.counts, areas, strict=True):
        drawn.add_row(name, *(_cell(*pair) for pair in zip(counts, found.totals, strict=True)), area)
    area = "" if found.areas is None else f"{found.areas.p_value:.3g}"
    values = (f"{found.false_alarms.p_value:.3g}", f"{found.misses.p_value:.3g}", area)
    drawn.add_row("p-value (McNemar, DeLong)", *values)
    return drawn


def _cell(count: int, total: int) -> str:
    if not total:
        return "-"
    low, high = interval(count, total)
    return f"{count} of {total} ({low:.0%} to {high:.0%})"


def _readable(inspector: Inspector, paths: Sequence[Path]) -> list[float]:
    found, unreadable = images.score(inspector, paths)
    if unreadable:
        raise DataError(f"{len(unreadable)} images can't be read, the first: {next(iter(unreadable))}. Leave them out.")
    return [one.score for one in found]


def _names(models: Sequence[str]) -> tuple[str, str]:
    """The models' last names where these differ, else their paths."""
    first, second = (Path(model).name for model in models)
    return (first, second) if first != second else (models[0], models[1])
