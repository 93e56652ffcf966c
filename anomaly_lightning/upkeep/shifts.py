"""The same images under other light, and slightly out of focus: in steps, to see from which on a promise breaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

Kind = Literal["darker", "brighter", "warmer", "cooler", "blurred"]

# Of each kind the strengths that are tried, the mildest first: shares of the light, of red against blue, and, for blur,
# the Gaussian's standard deviation in thousandths of the image's long side (about half a pixel each of 512).
STEPS: dict[Kind, tuple[float, ...]] = {
    "darker": (0.05, 0.10, 0.20, 0.30),
    "brighter": (0.05, 0.10, 0.20, 0.30),
    "warmer": (0.03, 0.06, 0.10, 0.15),
    "cooler": (0.03, 0.06, 0.10, 0.15),
    "blurred": (1.0, 2.0, 3.0, 4.0),
}


@dataclass(frozen=True)
class Shift:
    """One step of one kind of change.

    Attributes:
        kind: What changes.
        strength: How much; see `STEPS`.
    """

    kind: Kind
    strength: float

    @property
    def words(self) -> str:
        """The strength as it is shown."""
        return f"{self.strength:g} ‰" if self.kind == "blurred" else f"{self.strength:.0%}"

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image as it would have looked."""
        if self.kind == "blurred":
            return image.filter(ImageFilter.GaussianBlur(self.strength / 1000 * max(image.size)))
        return _scaled(image, _GAINS[self.kind](self.strength))


def shifts() -> Sequence[Shift]:
    """Every step of every kind, in order."""
    return [Shift(kind, strength) for kind, strengths in STEPS.items() for strength in strengths]


_GAINS: dict[Kind, Callable[[float], tuple[float, float, float]]] = {
    "darker": lambda share: (1 - share,) * 3,
    "brighter": lambda share: (1 + share,) * 3,
    "warmer": lambda share: (1 + share, 1.0, 1 - share),
    "cooler": lambda share: (1 - share, 1.0, 1 + share),
}


def _scaled(image: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    """An image with its channels multiplied and cut off at white, as a sensor does."""
    values = np.asarray(image, dtype=np.float32) * np.array(gains, dtype=np.float32)
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))
