"""One audit from a composed config: gather, judge, rank, write, print."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from anomaly_lightning.cache import FEATURES, limit_bytes
from anomaly_lightning.data import sources
from anomaly_lightning.data.dataset import ImageDataset
from anomaly_lightning.data.masks import check_masks
from anomaly_lightning.data.white import find_white
from anomaly_lightning.errors import UserError
from anomaly_lightning.features.extract import fill
from anomaly_lightning.features.store import trim
from anomaly_lightning.reports import console
from anomaly_lightning.reports.audit.facts import Facts, gather, readable
from anomaly_lightning.reports.audit.findings import KINDS, Finding, duplicate_findings, file_findings, outlier_findings
from anomaly_lightning.reports.audit.oddity import FEWEST, Oddities, out_of_fold
from anomaly_lightning.reports.audit.page import write_page
from anomaly_lightning.reports.run_files import write_json
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.scoring import Scoring
from anomaly_lightning.training import compose
from anomaly_lightning.training.checkpoint import create_detector

TOLD = 8  # findings of one kind that are printed


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
        self.resolved = sources.resolve(compose.plain(cfg.data), cfg.category.name, Path(cfg.cache.dir))
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
        found = file_findings(self.facts) + duplicate_findings(self.facts) + outlier_findings(self.facts)
        broken = {item.path for item in self.facts if item.reason is not None}
        with_masks = [sample for sample in category.test if sample.path not in broken]
        found += [Finding("mask", (), words) for words in check_masks(with_masks)]
        if self.cfg.rank:
            self.oddities = self._rank()
            found += self._odd(self.oddities)
        self.findings = sorted(found, key=lambda finding: list(KINDS).index(finding.kind))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "audit.json", self.content())
        write_page(self.folder / "audit.html", self)
        self._print()
        return len(self.serious())

    def serious(self) -> list[Finding]:
        """Findings that should stop a pipeline."""
        return [finding for finding in self.findings if finding.kind in self.cfg.serious]

    def exclude(self) -> list[Path]:
        """Training images that are better left out, each once."""
        return list(dict.fromkeys(path for finding in self.findings for path in finding.exclude))

    def content(self) -> dict[str, Any]:
        """What audit.json holds."""
        findings = [
            {
                "kind": f.kind,
                "serious": f.kind in self.cfg.serious,
                "words": f.words,
                "paths": [str(p) for p in f.paths],
            }
            for f in self.findings
        ]
        ranked = [] if self.oddities is None else self.oddities_rows()
        return {
            "category": str(self.cfg.category.name),
            "data": self.resolved.where,
            "exclude": [str(path) for path in self.exclude()],
            **self.counts(),
            "findings": findings,
            "ranked": ranked,
            "notes": self.notes,
            "images": [
                {"path": str(item.path), "role": item.role, "defect": item.sample.defect} | item.plain()
                for item in self.facts
            ],
        }

    def oddities_rows(self) -> list[dict[str, Any]]:
        """Ranked normals as plain values, the most anomalous first."""
        assert self.oddities is not None
        values = zip(self.oddities.paths, self.oddities.scores.tolist(), self.oddities.z.tolist(), strict=True)
        return [{"path": str(path), "score": score, "z": z} for path, score, z in values]

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
        """Out-of-fold scores of the training normals that can be read, each content once."""
        normals = {item.content: item for item in readable(self.facts) if item.role == "train"}
        if len(normals) < FEWEST:
            self.notes.append(f"The normals were not ranked: that takes at least {FEWEST} of them, not {len(normals)}.")
            return None
        cfg, folder = self.cfg, Path(self.cfg.cache.dir)
        extractor, data = compose.build_extractor(cfg), compose.plain(cfg.data)
        backbone = extractor.backbone
        transform = ImageTransform(data["image_size"], backbone.mean, backbone.std, data["resize"], self.white)
        if cfg.cache.mode == "disk":
            trim(folder / FEATURES, limit_bytes(cfg.cache.max_gb))
        store = compose.store_for(extractor, transform, cfg.cache.mode, folder, cfg.cache.dtype)
        dataset = ImageDataset([item.sample for item in normals.values()], transform)
        fill(store, list(normals), dataset.images, extractor, batch_size=16, workers=data["workers"])
        model, shape = compose.plain(cfg.model), extractor.shape(transform.size)

        def make() -> Any:
            detector = create_detector(model, trust=[str(model["_target_"]).partition(".")[0]])
            detector.build(shape)
            return detector

        paths = [item.path for item in normals.values()]
        with torch.inference_mode():
            return out_of_fold(
                store,
                list(normals),
                paths,
                make,
                Scoring(**compose.plain(cfg.scoring)),
                transform.size,
                cfg.folds,
                cfg.seed,
            )

    def _odd(self, oddities: Oddities | None) -> list[Finding]:
        if oddities is None:
            return []
        words = "out-of-fold error {:.3g}, {:.1f} robust standard deviations above the median"
        rows = zip(oddities.paths, oddities.scores.tolist(), oddities.z.tolist(), strict=True)
        return [
            Finding("looks_anomalous", (path,), words.format(score, z), (path,))
            for path, score, z in rows
            if z > self.cfg.odd_z
        ]

    def _print(self) -> None:
        console.audit_tables(self.counts(), _by_kind(self.findings), KINDS, TOLD)
        if self.oddities is not None:
            console.ranking(self.oddities_rows()[:10])
        console.audit_end(len(self.serious()), len(self.exclude()), self.folder, self.notes)


def _by_kind(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Words of the findings of each kind, with the file where the words don't name it."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        named = finding.words if not finding.paths or len(finding.paths) > 1 else f"{finding.paths[0]}: {finding.words}"
        found.setdefault(finding.kind, []).append(named)
    return found
