"""Files that look like data and are none, in words: said once wherever a folder is read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_lightning.runtime.files import left_out_of

SHOWN = 3  # named in words
KEPT = 50  # named in run.json


@dataclass(frozen=True)
class LeftOut:
    """Files that are no data, for one reason.

    Attributes:
        why: The reason, one of `runtime.files` or `data.intake`.
        paths: All of them, in natural order.
    """

    why: str
    paths: tuple[Path, ...]

    def words(self) -> str:
        """How many, why, and the first names."""
        named = ", ".join(map(str, self.paths[:SHOWN]))
        more = f" and {len(self.paths) - SHOWN} more" if len(self.paths) > SHOWN else ""
        return f"{len(self.paths)} file(s) left out ({self.why}): {named}{more}"

    def plain(self) -> dict[str, Any]:
        """For run.json: the reason, the count and the first paths."""
        return {"why": self.why, "count": len(self.paths), "paths": [str(path) for path in self.paths[:KEPT]]}


def left_out_below(folders: Iterable[Path]) -> list[LeftOut]:
    """What `images_in` leaves out below some folders, by the reason."""
    found: dict[str, dict[Path, None]] = {}
    for folder in folders:
        for why, paths in left_out_of(folder).items():
            found.setdefault(why, {}).update(dict.fromkeys(paths))
    return [LeftOut(why, tuple(paths)) for why, paths in found.items()]
