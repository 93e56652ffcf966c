"""Which pictures a run uses: exactly what was stated, or what is there where nothing was."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_lightning.data import synthetic
from anomaly_lightning.data.samples import Category, categories_in, read_category
from anomaly_lightning.errors import DataError

DEFAULT_ROOT = Path("data/mvnet")


@dataclass(frozen=True)
class Resolved:
    """Where the pictures come from.

    Attributes:
        category: What the layout holds.
        root: The folder of categories.
        why: In words: how the root was found.
    """

    category: Category
    root: Path
    why: str


def resolve(data: Mapping[str, Any], name: str, cache: Path) -> Resolved:
    """Find a category's pictures.

    Args:
        data: The plain `data` config: `root`, `layout` and `generate`.
        name: The category.
        cache: Folder that generated pictures are kept in.

    Raises:
        DataError: What was stated is not there, or nothing is there and the category can't be generated.
    """
    if data["root"] is not None and data["layout"] == "synthetic":
        raise DataError(f"data.root={data['root']} contradicts data=synthetic, which generates its pictures.")
    if data["root"] is not None:
        return _read(Path(data["root"]).expanduser(), name, "data.root, as stated")
    if data["layout"] == "synthetic":
        return _generate(data, name, cache, "data=synthetic, as stated")
    if os.environ.get("MVNET_ROOT"):
        return _read(Path(os.environ["MVNET_ROOT"]).expanduser(), name, "$MVNET_ROOT")
    if categories_in(DEFAULT_ROOT):
        return _read(DEFAULT_ROOT, name, f"found in {DEFAULT_ROOT}")
    return _generate(data, name, cache, f"no data.root stated, no $MVNET_ROOT, no {DEFAULT_ROOT}: generated pictures")


def _read(root: Path, name: str, why: str) -> Resolved:
    return Resolved(read_category(root, name), root, why)


def _generate(data: Mapping[str, Any], name: str, cache: Path, why: str) -> Resolved:
    if name not in synthetic.CATEGORIES:
        raise DataError(
            f"There are no pictures of category {name!r} ({why}), and it can't be generated. State data.root=<folder "
            f"that holds {name}/train/good>, or take one of: {', '.join(synthetic.CATEGORIES)}."
        )
    settings = {key: tuple(value) if key == "size" else value for key, value in data["generate"].items()}
    root = synthetic.generate(cache / "synthetic", name, **settings)
    return Resolved(read_category(root, name), root, why)
