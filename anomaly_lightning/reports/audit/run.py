"""One audit from a composed config: gather, judge, rank, write, print."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anomaly_lightning.data import sources
from anomaly_lightning.data.white import find_white
from anomaly_lightning.errors import UserError
from anomaly_lightning.reports import console
from anomaly_lightning.reports.audit.facts import Facts, gather, readable
from anomaly_lightning.reports.audit.findings import (
    KINDS,
    Finding,
    duplicate_findings,
    file_findings,
    intake_findings,
    mask_findings,
    outlier_findings,
    with_clear_masks,
)
from anomaly_lightning.reports.audit.html import page_data
from anomaly_lightning.reports.audit.oddity import FEWEST, Oddities, rank
from anomaly_lightning.reports.run_files import write_json
from anomaly_lightning.reports.templating import write_page
from anomaly_lightning.training import compose

SHOWN = 8  # findings of one kind that are printed


class Audit:
    """Everything that is known of one category before training.

    Args:
        cfg: Composed from conf/audit.yaml.

    Attributes:
        facts: Of every file.
        findings: In the order of `KINDS`.
        white: Grey level that counts as white in images of 16 bits; None = 65535.
        oddities: Ranked training normals; None where they were not ranked, `notes` says why.
    """

    def __init__(self, cfg: DictConfig) -> None:
        unknown = sorted(set(cfg.serious) - set(KINDS))
        if unknown:
            raise UserError(f"serious={unknown}: expected kinds of findings: {', '.join(KINDS)}.")
        self.cfg, self.folder, self.notes = cfg, Path(cfg.output), list[str]()
        data = compose.plain(cfg.data)
        self.resolved = sources.resolve(data, cfg.category.name, Path(cfg.cache.dir), strict=False)
        self.white = find_white(cfg.data.white, [sample.path for sample in self.resolved.category.train])
        if self.white is not None:
            self.notes.append(f"Level {self.white} counts as white in images of 16 bits (data.white).")
        self.facts: list[Facts] = []
        self.findings: list[Finding] = []
        self.oddities: Oddities | None = None

    def run(self) -> int:
        """Look at everything, write audit.json and audit.html, print; returns how many findings are serious."""
        console.banner({"data": f"{self.resolved.where} ({self.resolved.why})", "outputs": self.folder})
        category = self.resolved.category
        with console.progress_bar() as bar:
            task = bar.add_task("reading images", total=len(category.train) + len(category.test), note="")
            self.facts = gather(category, self.white, lambda done: bar.update(task, completed=done))
        found = intake_findings(self.resolved)
        # What is said of a file there is not said again in other words.
        unclear = {path for finding in found for path in finding.exclude}
        clear = [item for item in self.facts if item.path not in unclear]
        found += file_findings(clear) + duplicate_findings(clear) + outlier_findings(clear)
        broken = {item.path for item in self.facts if item.reason is not None}
        clear_masks = with_clear_masks(self.resolved)
        found += mask_findings([s for s in clear_masks if s.mask is not None or s.path not in broken])
        if self.cfg.rank:
            self.oddities = self._rank()
            found += [] if self.oddities is None else self.oddities.findings(self.cfg.odd_z, self.cfg.exclude_odd)
        self.findings = sorted(found, key=lambda finding: list(KINDS).index(finding.kind))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "audit.json", self.content())
        write_page(self.folder / "audit.html", page_data(self))
        self._print()
        return len(self.serious())

    def serious(self) -> list[Finding]:
        """Findings that should stop a pipeline."""
        return [finding for finding in self.findings if finding.kind in self.cfg.serious]

    def exclude(self) -> list[Path]:
        """Files that are better left out, each once."""
        return list(dict.fromkeys(path for finding in self.findings for path in finding.exclude))

    def content(self) -> dict[str, Any]:
        """What audit.json holds."""
        return {
            "category": str(self.cfg.category.name),
            "data": self.resolved.where,
            "exclude": [str(path) for path in self.exclude()],
            **self.counts(),
            "findings": [f.plain() | {"serious": f.kind in self.cfg.serious} for f in self.findings],
            "ranked": [] if self.oddities is None else list(self.oddities.rows),
            "notes": self.notes,
            "images": [
                {"path": str(item.path), "role": item.role, "defect": item.sample.defect} | item.plain()
                for item in self.facts
            ],
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images there are of each set and defect, each size and each colour mode."""
        good = readable(self.facts)
        sizes = Counter(f"{i.statistics.width}x{i.statistics.height}" for i in good if i.statistics is not None)
        return {
            "counts": dict(Counter(f"{item.role}/{item.sample.defect}" for item in self.facts)),
            "sizes": dict(sizes.most_common()),
            "modes": dict(Counter(item.mode for item in good).most_common()),
        }

    def _rank(self) -> Oddities | None:
        """The training normals that can be read, each content once, ranked."""
        normals = {item.content: item for item in readable(self.facts) if item.role == "train"}
        if len(normals) < FEWEST:
            self.notes.append(f"The normals were not ranked: that takes at least {FEWEST} of them, not {len(normals)}.")
            return None
        return rank(self.cfg, list(normals.values()), self.white)

    def _print(self) -> None:
        console.audit_tables(self.counts(), _by_kind(self.findings), KINDS, SHOWN)
        if self.oddities is not None:
            console.ranking(self.oddities.rows[:10])
        console.audit_end(len(self.serious()), len(self.exclude()), self.folder, self.notes)


def _by_kind(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Words of the findings of each kind, with the file where the words don't name it."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        alone = len(finding.paths) == 1 and str(finding.paths[0]) not in finding.words
        named = f"{finding.paths[0]}: {finding.words}" if alone else finding.words
        found.setdefault(finding.kind, []).append(named)
    return found
