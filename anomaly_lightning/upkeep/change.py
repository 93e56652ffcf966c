"""What another threshold, or another model, changes on images whose truth is known."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from anomaly_lightning.calibration.realised import interval
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.runtime.decision import exceeds, verdict
from anomaly_lightning.upkeep.images import Scored

SHOWN = 20  # images named by their files


@dataclass(frozen=True)
class Decided:
    """One image and what two versions say of it.

    Attributes:
        name: Of its file.
        defective: What it shows.
        before: Verdict of the version in use.
        after: Verdict of the new one.
        called: Whether each calls it defective: its score exceeds the threshold.
    """

    name: str
    defective: bool
    before: str
    after: str
    called: tuple[bool, bool]


@dataclass(frozen=True)
class Mistakes:
    """Mistakes of one kind before and after a change, among so many images.

    Attributes:
        total: Images that the mistake can be made on.
        before: Mistakes of the version in use.
        after: Mistakes of the new one.
        gained: Made by the new one alone.
        lost: Made by the one in use alone.
    """

    total: int
    before: int
    after: int
    gained: int
    lost: int

    @property
    def increase(self) -> float:
        """By how much the rate rises; negative where it falls, 0 without images."""
        return (self.after - self.before) / self.total if self.total else 0.0

    def plain(self) -> dict[str, Any]:
        """JSON values: each count with the 95 % interval of its share (Clopper-Pearson), None without images."""
        counts = {"before": self.before, "after": self.after, "gained": self.gained, "lost": self.lost}
        known = {name: {"count": count, "ci95": self._interval(count)} for name, count in counts.items()}
        return {"total": self.total, **known}

    def _interval(self, count: int) -> list[float] | None:
        return list(interval(count, self.total)) if self.total else None


@dataclass(frozen=True)
class Change:
    """What changes on marked images."""

    images: tuple[Decided, ...]

    @property
    def flips(self) -> dict[str, int]:
        """How many verdicts change, by "OK -> NG"."""
        changed = Counter(f"{one.before} -> {one.after}" for one in self.images if one.before != one.after)
        return dict(sorted(changed.items()))

    @property
    def false_alarms(self) -> Mistakes:
        """Good parts that are called defective."""
        return _mistakes([one.called for one in self.images if not one.defective])

    @property
    def misses(self) -> Mistakes:
        """Defective parts that are not."""
        return _mistakes([(not one.called[0], not one.called[1]) for one in self.images if one.defective])

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        changed = [one for one in self.images if one.before != one.after]
        return {
            "images": len(self.images),
            "flips": self.flips,
            "false_alarms": self.false_alarms.plain(),
            "misses": self.misses.plain(),
            "changed": [[one.name, one.before, one.after] for one in changed[:SHOWN]],
        }

    def check(self, most: float) -> None:
        """Refuse a change that misses more of the known defects than is allowed.

        Args:
            most: By how much the miss rate may rise.

        Raises:
            UserError: It rises by more; nothing was changed.
        """
        found = self.misses
        if found.increase > most:
            raise UserError(
                f"The miss rate on the {found.total} known defects would rise from {found.before / found.total:.1%} to "
                f"{found.after / found.total:.1%}, by more than max_miss_increase={most}: nothing was changed. Look at "
                "the new normals (is a defect among them?), train again with them, or allow a larger increase."
            )

    def table(self) -> Table:
        """What changes, in numbers."""
        drawn = Table(box=None, pad_edge=False)
        for name in ("", "images", "before", "after", "gained", "lost"):
            drawn.add_column(name, justify="right" if name else "left", no_wrap=True)
        for name, found in (("false alarms", self.false_alarms), ("misses", self.misses)):
            counts = (found.before, found.after, found.gained, found.lost)
            drawn.add_row(name, str(found.total), *(_cell(count, found.total) for count in counts))
        return drawn


def compared(
    scored: Sequence[tuple[Scored, Scored]],
    defective: Sequence[bool],
    before: ThresholdsCard,
    after: ThresholdsCard,
) -> Change:
    """Hold two versions side by side.

    Args:
        scored: What each says of each image, the version in use first.
        defective: What each image shows.
        before: Thresholds of the version in use.
        after: Thresholds of the new one.
    """
    found = []
    for (old, new), bad in zip(scored, defective, strict=True):
        called = bool(exceeds(old.score, before.score)), bool(exceeds(new.score, after.score))
        found.append(Decided(str(old.path), bad, _verdict(old, before), _verdict(new, after), called))
    return Change(tuple(found))


def _verdict(one: Scored, known: ThresholdsCard) -> str:
    return verdict(one.score, known.score, known.review, one.reason)


def _mistakes(pairs: Iterable[tuple[bool, bool]]) -> Mistakes:
    made = Counter(pairs)
    gained, lost, both = made[False, True], made[True, False], made[True, True]
    return Mistakes(made.total(), both + lost, both + gained, gained, lost)


def _cell(count: int, total: int) -> str:
    if not total:
        return "-"
    low, high = interval(count, total)
    return f"{count} ({low:.0%} to {high:.0%})"
