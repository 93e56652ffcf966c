"""Images of which it is known what they show: from folders, or from the marks that people set."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_lightning.data.folder import defects_in
from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.errors import DataError
from anomaly_lightning.review.store import ReviewStore
from anomaly_lightning.runtime.files import on_disk
from anomaly_lightning.runtime.inspection import Inspection
from anomaly_lightning.runtime.inspector import BATCH, Inspector

logger = logging.getLogger(__name__)

STORES = (".db", ".sqlite", ".sqlite3")


@dataclass(frozen=True)
class Labelled:
    """Images whose truth is known, by their files.

    Attributes:
        normals: Of good parts.
        defects: Of defective ones.

    Raises:
        DataError: An image is among both.
    """

    normals: tuple[Path, ...] = ()
    defects: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse images that are said to be both."""
        good = {path.resolve() for path in self.normals}
        if both := [path for path in self.defects if path.resolve() in good]:
            raise DataError(
                f"{both[0]} is named among the good parts and among the defective ones ({len(both)} are): decide which "
                "it is, by its folder or its mark."
            )

    def __add__(self, other: "Labelled") -> "Labelled":
        """Both, each file once."""
        return Labelled(_each_once(self.normals + other.normals), _each_once(self.defects + other.defects))


@dataclass(frozen=True)
class Scored:
    """One image and what a model says of it.

    Attributes:
        path: The file.
        score: Raw error.
        reason: Why it is INVALID; None = it is not.
    """

    path: Path
    score: float
    reason: str | None


def is_store(given: str) -> bool:
    """Whether a user named a database of marks."""
    return Path(given).suffix.lower() in STORES


def labelled(
    normals: str | None = None, defects: str | None = None, marks: str | None = None, model: str | None = None
) -> Labelled:
    """What a user named.

    Args:
        normals: Image, folder or glob of good parts, or a database of marks, whose normals are taken.
        defects: The same of defective parts; in a folder masks and folders of good parts are left out.
        marks: Database of marks, of which both are taken.
        model: Whose decisions' marks are taken, where a database holds those of several; None = there is one.

    Raises:
        DataError: Nothing is there.
        ReviewError: The database can't be read.
    """
    found = Labelled() if marks is None else marked(Path(marks), model)
    if normals is not None:
        good = marked(Path(normals), model).normals if is_store(normals) else tuple(find_images(normals)[0])
        found += Labelled(normals=good)
    if defects is not None:
        found += Labelled(defects=marked(Path(defects), model).defects if is_store(defects) else _defects(defects))
    return found


def marked(database: Path, model: str | None = None) -> Labelled:
    """Images of which the marks in a database say whether the part is good."""
    with ReviewStore(database) as store:
        found = list(store.marked(model))
        lost = store.marked_without_image()
    if lost:
        logger.warning("%s: %d marks are of images that were not kept: they can't be scored again", database, lost)
    normals = [one for one in found if one.truth == "normal"]
    stopped = sum(one.decision.verdict != "OK" for one in normals)
    if stopped:
        logger.warning(
            "%s: %d of the %d marked normals were stopped (NG, REVIEW or INVALID). Where only what was stopped is "
            "reviewed, these are not drawn like the parts of the line, and a threshold from them alone is too high: "
            "mark parts that passed, too.",
            database,
            stopped,
            len(normals),
        )
    defects = tuple(one.path for one in found if one.truth == "defect")
    return Labelled(tuple(one.path for one in normals), defects)


def score(
    inspector: Inspector,
    images: Sequence[Path],
    keep: Callable[[Path, Inspection], None] | None = None,
    batch_size: int = BATCH,
) -> tuple[list[Scored], dict[Path, str]]:
    """Scores of images, and why others can't be read.

    Args:
        inspector: The model.
        images: The files.
        keep: Shown each image with all that is said of it, which is let go of afterwards.
        batch_size: Images that are scored at once.
    """
    found, unreadable = list[Scored](), dict[Path, str]()
    for path, said in zip(images, inspector.stream(images, batch_size), strict=True):
        if isinstance(said, DataError):
            logger.error("%s", said)
            unreadable[path] = str(said)
            continue
        found.append(Scored(path, said.score, said.reason))
        if keep is not None:
            keep(path, said)
    return found, unreadable


def _defects(given: str) -> tuple[Path, ...]:
    folder = on_disk(Path(given).expanduser())
    if not folder.is_dir():
        return tuple(find_images(given)[0])
    found = tuple(sample.path for sample in defects_in(folder))
    if not found:
        raise DataError(f"defects={given}: the folder holds no image of a defect.")
    return found


def _each_once(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple({path.resolve(): path for path in reversed(list(paths))}.values())[::-1]
