"""Which images `evaluate` tests on, those of the run wherever they lie by now, or other ones; and what to say of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anomaly_lightning.errors import DataError
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.runtime.card import DataCard, ModelCard
from anomaly_lightning.training.compose import plain

FOLDERS = ("normal", "normal_test", "abnormal", "masks")
# What each layout takes; those that are not named have a root of categories.
TAKEN = {"folder": FOLDERS, "manifest": ("manifest",), "synthetic": ()}
PLACES = ("root", *FOLDERS, "manifest")


@dataclass(frozen=True)
class TestedData:
    """Where the images of an evaluation are looked for.

    Attributes:
        name: The category.
        settings: What `data.sources.resolve` takes.
        changes: Options that were set, and so differ from the run's own; {} = all is as the run had it.
        good_alone: Whether there are good parts to test on, but no normals that a run would train on: none are needed.
    """

    name: str
    settings: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)
    good_alone: bool = False

    @property
    def elsewhere(self) -> bool:
        """Whether places were set."""
        return any(option != "category" for option in self.changes)


def what_to_test(cfg: DictConfig, card: ModelCard) -> TestedData:
    """What the options of `evaluate` say, and what the run knows where they say nothing.

    With data=<layout> all of its places are to be set; without it, single places of the run's layout are exchanged.

    Raises:
        DataError: An unknown layout, or places that don't go with it.
    """
    given = {key: value for key in ("layout", *PLACES) if (value := plain(cfg.data)[key]) is not None}
    changes = {("data" if key == "layout" else f"data.{key}"): value for key, value in given.items()}
    changes |= {} if cfg.data.category is None else {"category": str(cfg.data.category)}
    name = str(cfg.data.category or card.category)
    own = card.data.places
    if not given:
        return TestedData(name, own, changes)
    layout = str(given.pop("layout", None) or _layout_of(given, card.data))
    _check(layout, given)
    settings: dict[str, Any] = {"layout": layout, **dict.fromkeys(PLACES), "generate": plain(cfg.data.generate)}
    if layout == own["layout"] and cfg.data.layout is None:
        settings |= own
        settings["exclude"] = _moved(own, given)
    settings |= given
    alone = layout == "folder" and bool(settings["normal_test"]) and not _there(settings["normal"])
    if alone and card.data.split == "official":
        # Read as if they were to be trained on, which nothing is: the caller tests on them.
        settings |= {"normal": settings["normal_test"], "normal_test": None}
        return TestedData(name, settings, changes, good_alone=True)
    return TestedData(name, settings, changes)


def _layout_of(given: Mapping[str, Any], data: DataCard) -> str:
    """Layout that places belong to where none is named: the run's own where it takes them."""
    own = str(data.places["layout"])
    if set(given) <= set(TAKEN.get(own, ("root",))):
        return own
    return "manifest" if "manifest" in given else "mvnet" if "root" in given else "folder"


def _check(layout: str, given: Mapping[str, Any]) -> None:
    layouts = sorted(path.stem for path in (CONFIG_DIR / "data").glob("*.yaml"))
    if layout not in layouts:
        raise DataError(f"data={layout}: expected one of {', '.join(layouts)}.")
    taken = TAKEN.get(layout, ("root",))
    if wrong := [key for key in given if key not in taken]:
        takes = ", ".join(f"data.{key}" for key in taken) or "no place, because it generates its images"
        raise DataError(f"data.{wrong[0]}={given[wrong[0]]} does not go with data={layout}, which takes {takes}.")


def _moved(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The training images that the run left out, where they lie in the places that were set."""
    pairs = [pair for key, value in given.items() for pair in zip(_listed(own.get(key)), _listed(value), strict=False)]

    def moved(path: Path) -> Path:
        for before, now in pairs:
            if path.is_relative_to(before):
                return Path(now).expanduser().absolute() / path.relative_to(before)
        return path

    return [str(moved(Path(path))) for path in own.get("exclude") or []]


def _listed(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value] if value else [])]


def _there(folders: Any) -> bool:
    """Whether there are such folders."""
    return bool(folders) and all(Path(folder).expanduser().is_dir() for folder in _listed(folders))


def words(tested: TestedData, fingerprint: str, card: ModelCard) -> str:
    """What the reader of the metrics has to know of the images; "" where they are those of the run as they were.

    Args:
        tested: What was evaluated.
        fingerprint: Of those images.
        card: Of the model.
    """
    if fingerprint == card.data.fingerprint:
        return ""
    changed = ", ".join(f"{option}={value}" for option, value in tested.changes.items())
    why = f"evaluated with {changed}" if changed else "the run's images, masks or defect names were changed since"
    return (
        f"not the data of the run ({card.category}): {why}. The fingerprint differs: {fingerprint[:12]} here, "
        f"{card.data.fingerprint[:12]} there"
    )
