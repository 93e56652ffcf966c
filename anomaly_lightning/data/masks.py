"""Which mask belongs to which image, by their names."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.samples import Sample, Trouble

# The customary names of a mask, by the name of its image: these words before or behind it, or its name alone.
WORDS = ("mask", "gt", "label", "labels", "ground_truth", "groundtruth", "seg", "segmentation", "annotation")
AFFIXES = tuple(pair for word in WORDS for sign in "_-. " for pair in (("", sign + word), (word + sign, "")))
CUSTOMARY = "the image's name alone, or with one of {} before or behind it (000_mask, gt-000), in any case".format(
    ", ".join(WORDS)
)
# Folders of masks, as they are customarily called.
TRUTHS = ("ground_truth", "groundtruth", "gt", "masks")


def plain_name(name: str) -> str:
    """A name without case and in one Unicode form: disks and archives change both."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _mask_names(image: Path) -> Iterator[str]:
    """Stems that a mask of an image may have; the first that is there is taken."""
    for name in (image.name, image.stem):  # the whole name tells 000.png and 000.jpg apart
        yield from (before + name + behind for before, behind in AFFIXES)
    yield from (image.name, image.stem)


class MaskFinder:
    """The masks of one folder, found by their customary names.

    A mask is a file, or a folder that holds several files. It stands in the same folder below `folder` as the image
    below its own, or in one above that; a folder of masks only in the same.

    Args:
        folder: Where the masks are, at any depth; one that is not there holds none.
        without: Files that count as not there.

    Attributes:
        troubles: Images with several masks of one name, of which none was taken.
    """

    def __init__(self, folder: Path, without: Exclusion | None = None) -> None:
        self.troubles: list[Trouble] = []
        self._suffixes: Counter[str] = Counter()
        self._named: defaultdict[tuple[str, ...], set[Path]] = defaultdict(set)
        for file in (without or Exclusion()).images_in(folder, recursive=True):
            parent = file.parent.relative_to(folder)
            self._suffixes[file.suffix.lower()] += 1
            self._named[(*map(plain_name, parent.parts), plain_name(file.stem))].add(file)
            if parent.name:
                self._named[tuple(map(plain_name, parent.parts))].add(file.parent)

    def find(self, image: Path, relative: Path) -> Path | None:
        """Mask of an image, None where there is none, or where `troubles` says that there are several.

        Args:
            image: The image's file, which is never its own mask.
            relative: Its path below the folder of images.
        """
        for parent in relative.parents:
            place = tuple(map(plain_name, parent.parts))
            for name in _mask_names(relative):
                found = self._named.get((*place, plain_name(name)), set()) - {image}
                if parent != relative.parent:
                    found = {path for path in found if not path.is_dir()}
                if len(found) > 1:  # names that differ by their case alone
                    found = {path for path in found if path.stem == name} or found
                if len(found) > 1:
                    self.troubles.append(_several(image, sorted(found), self._suffixes))
                    return None
                if found:
                    return found.pop()
        return None


def _several(image: Path, masks: Sequence[Path], suffixes: Counter[str]) -> Trouble:
    listed = ", ".join(map(str, masks))
    words = f"{image} has several masks of one name: {listed}. Keep one of them"
    return Trouble("mask_several", (*masks, image), words, _less_likely(masks, suffixes) or tuple(masks))


def _less_likely(paths: Sequence[Path], suffixes: Counter[str]) -> tuple[Path, ...]:
    """All of some files but the one whose suffix most files have; none where no suffix stands out."""
    ranks = sorted(((suffixes[path.suffix.lower()], path) for path in paths), reverse=True)
    return tuple(path for _, path in ranks[1:]) if ranks[0][0] > ranks[1][0] else ()


def looks_like_mask(path: Path) -> bool:
    """Whether a file is named as a mask is, other than by its image's own name."""
    stem = plain_name(path.stem)
    return any(stem.startswith(before) and stem.endswith(behind) for before, behind in AFFIXES)


def masks_among(images: Sequence[Path], advice: str) -> list[Trouble]:
    """Images that look like the mask of another one beside them, and would be taken for images.

    Args:
        images: All images of a set.
        advice: What to do where one is a mask, as words that follow "If it is,".
    """
    there = {(path.parent, plain_name(path.stem)): path for path in images}
    found: dict[Path, Trouble] = {}
    for image in images:
        for before, behind in AFFIXES:
            mask = there.get((image.parent, plain_name(before + image.stem + behind)))
            if mask is not None:
                words = f"{mask} lies beside {image} and looks like its mask. If it is, {advice}; if not, rename it"
                found[mask] = Trouble("mask_as_image", (mask,), words, (mask,))
    return list(found.values())


def shared_masks(samples: Iterable[Sample]) -> list[Trouble]:
    """Masks that were found for several images, as happens where two images have the same stem."""
    owners: defaultdict[Path, list[Path]] = defaultdict(list)
    suffixes: Counter[str] = Counter()
    for sample in samples:
        suffixes[sample.path.suffix.lower()] += 1
        if sample.mask is not None:
            owners[sample.mask].append(sample.path)
    return [_shared(mask, images, suffixes) for mask, images in owners.items() if len(images) > 1]


def _shared(mask: Path, images: Sequence[Path], suffixes: Counter[str]) -> Trouble:
    owners = " and ".join(map(str, images))
    way = "Rename the images, or put the masks into the same subfolders as the images"
    words = f"One mask, {mask}, fits {owners} by its name. {way}"
    return Trouble("mask_shared", (*images, mask), words, _less_likely(images, suffixes) or (mask,))
