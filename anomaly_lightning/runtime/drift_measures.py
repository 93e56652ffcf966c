"""What the drift monitor looks at in one inspected image: numbers of the map, of the image's looks, of its layout.

None of them says whether a part is good. They were chosen so that the causes of a change move different ones: a camera
or a lamp moves the looks of every image, and the errors of most patches; defects raise the largest errors of a few
images and leave the median of their maps where it was.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_lightning.runtime.appearance import TEXTURES, Statistics
from anomaly_lightning.runtime.inspection import Inspection

TOP_SHARE = 0.01  # of a map's values, whose mean is held against the median
THUMBNAIL = 16  # a side, in cells
_VALUES = 128  # about so many values along a map's shorter side are looked at: a map is smooth
_TINY = 1e-12
DECIMALS = 6

# Name of each measure, its group, and the smallest standard deviation that is believed of it.
LOCAL, LEVEL, LOOKS = "local", "level", "looks"
MEASURES: dict[str, tuple[str, float]] = {
    "log_score": (LOCAL, 0.02),
    "log_top": (LOCAL, 0.02),
    "log_upper": (LOCAL, 0.02),
    "log_median": (LEVEL, 0.01),
    "brightness": (LOOKS, 0.5),
    "log_contrast": (LOOKS, 0.01),
    "dark": (LOOKS, 0.002),
    "bright": (LOOKS, 0.002),
    "red_green": (LOOKS, 0.3),
    "blue_yellow": (LOOKS, 0.3),
    "log_aspect": (LOOKS, 0.01),
    "log_height": (LOOKS, 0.01),
    **{f"log_{name}": (LOOKS, 0.02) for name in TEXTURES},
    **{f"log_calm_{name}": (LOOKS, 0.02) for name in TEXTURES},
    "layout": (LOOKS, 0.01),
}


def measures(said: Inspection, mean_thumbnail: NDArray[np.float64]) -> NDArray[np.float64]:
    """The measures of one inspected image, (K,) float64 in the order of `MEASURES`; a score that is NaN stays NaN.

    They are rounded as the card's are: an equal value stays equal.

    Args:
        said: What the inspector said.
        mean_thumbnail: (16, 16) float64 of normals, as `thumbnail` makes them.
    """
    found = [*of_map(said), *of_looks(said.appearance), layout(thumbnail(said.image), mean_thumbnail)]
    return np.round(found, DECIMALS)


def thumbnail(image: Image.Image) -> NDArray[np.float64]:
    """The grey levels of an image in 16 x 16 cells, with mean 0 and standard deviation 1: where is light and dark."""
    cells = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float64)
    centred = cells - cells.mean()
    scaled: NDArray[np.float64] = centred / (centred.std() + 1.0)  # a level more: an even image has no layout
    return scaled


def layout(cells: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
    """Mean distance of a thumbnail from that of the normals, both (16, 16)."""
    return float(np.abs(cells - mean).mean())


def of_map(said: Inspection) -> list[float]:
    """Those of the map, as logarithms: score; its top and its 9th decile, over its median; the median."""
    step = max(1, min(said.anomaly_map.shape) // _VALUES)
    values = said.anomaly_map[::step, ::step].ravel()
    inside = values[values > 0]  # the region; outside of it a map is 0
    values = np.sort(inside if len(inside) else values).astype(np.float64)
    median, upper = (values[int(share * (len(values) - 1))] + _TINY for share in (0.5, 0.9))
    top = values[-max(1, round(TOP_SHARE * len(values))) :].mean() + _TINY
    logs = np.log([max(said.score, _TINY), top / median, upper / median, median])
    return [float(value) for value in logs]


def of_looks(looks: Statistics) -> list[float]:
    """Those of the looks, but for the layout."""
    texture = np.log(np.array(looks.texture) + 1.0)  # 1: what rounding makes
    calm = np.log(np.array(looks.calm) + 1.0)
    shape = [float(np.log(looks.width / looks.height)), float(np.log(looks.height))]
    plain = [looks.brightness, float(np.log(looks.contrast + 1)), looks.dark, looks.bright]
    return [*plain, looks.red_green, looks.blue_yellow, *shape, *texture.tolist(), *calm.tolist()]
