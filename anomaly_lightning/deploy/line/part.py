"""What goes through a line: a part, and the one outcome that it gets."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.runtime.names import folder_name

Kind = Literal["verdict", "late", "dropped", "failed"]
KINDS: tuple[Kind, ...] = ("verdict", "late", "dropped", "failed")


@dataclass(frozen=True, eq=False)
class Part:
    """One part that was seen.

    Attributes:
        id: Distinct from that of any other part of this line, across restarts too; letters, digits and `_.+-`.
        image: RGB: a PIL image, or (H, W, 3) uint8; None where there is an error.
        taken: When it was there, by the monotonic clock, in seconds; deadline and latency count from here.
        names: What its source says of it (path, frame, ...): plain JSON values that stand in its line.
        error: Why there is no image; None = there is one.
        file: What its heatmap and mask are called, without the suffix that is added; None = as its id.
    """

    id: str
    image: Image.Image | NDArray[np.uint8] | None
    taken: float
    names: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        kind: "verdict", or why there is none: "late", "dropped", "failed".
        fields: What the line says of it besides: score, threshold, regions, reason, heatmap.
        decision: The verdict; None where there is none.
        error: Why there is none, in words.
    """

    kind: Kind
    fields: Mapping[str, Any] = field(default_factory=dict)
    decision: str | None = None
    error: str | None = None


def stable_id(name: str, *what: object) -> str:
    """Id of a part that can be had again: the same for the same file, version and frame, and safe everywhere.

    Args:
        name: For people: that of the file.
        what: Values that tell this part from all others.
    """
    digest = hashlib.sha256("\0".join(str(value) for value in what).encode("utf-8", "surrogateescape")).hexdigest()
    readable = folder_name(PurePath(name).stem)[:40].encode("ascii", "ignore").decode().strip("._") or "part"
    return f"{readable}-{digest[:16]}"
