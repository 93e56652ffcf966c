"""Which images a run uses: exactly what was given, or what is there where nothing was."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anomaly_lightning.data import synthetic
from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.folder import read_folder
from anomaly_lightning.data.intake import left_out
from anomaly_lightning.data.layouts import categories_in, read_category, read_layout
from anomaly_lightning.data.manifest import read_manifest
from anomaly_lightning.data.masks import shared_masks
from anomaly_lightning.data.samples import LISTED_TWICE, Category, Trouble
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import mark_cache, on_disk
from anomaly_lightning.runtime.left_out import LeftOut

DEFAULT_ROOT = Path("data/mvnet")
SHOWN = 10  # unclear masks that a refusal names
PLACES = ("root", "normal", "normal_test", "abnormal", "masks", "manifest")


@dataclass(frozen=True)
class Resolved:
    """Where the images come from.

    Attributes:
        category: What the layout holds.
        where: The folder of categories, the folders or the table.
        why: In words: how that was found.
        settings: Plain `layout` and places (absolute), from which `resolve` finds the same images again.
        excluded: Files that are left out because `data.exclude` names them.
        left_out: What lies beside the data and is none.
        troubles: What leaves open which mask belongs to which image.
    """

    category: Category
    where: str
    why: str
    settings: Mapping[str, Any]
    excluded: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    troubles: tuple[Trouble, ...] = ()


def resolve(data: Mapping[str, Any], name: str, cache: Path, strict: bool = True) -> Resolved:
    """Find a category's images.

    Args:
        data: The plain `data` config: `layout`, the places that it takes (`root`; `normal`, `abnormal`, ...;
            `manifest`) and, where images may be generated, `generate`; `exclude`, an audit.json or a list of paths.
        name: The category.
        cache: Folder that generated images are kept in.
        strict: Whether to refuse a file that a table lists twice, and what leaves open which mask belongs to which
            image.

    Raises:
        DataError: What was given is not there, or nothing is there and the category can't be generated; or, where
            `strict`, the masks are unclear.
    """
    exclude = data.get("exclude") or []
    without = Exclusion(Path(path).absolute() for path in (_listed(exclude) if isinstance(exclude, str) else exclude))
    resolved = _resolve_all(data, name, cache, without)
    category = resolved.category
    unclear = {path for trouble in category.troubles for path in trouble.exclude}
    shared = shared_masks(sample for sample in category.test if sample.path not in unclear)
    troubles = (*category.troubles, *shared)
    if strict and troubles:
        raise DataError(_refusal(troubles))
    beside = left_out(category, resolved.settings, without)
    if without.paths and not without.met and isinstance(exclude, str):
        raise DataError(
            f"data.exclude={exclude} names {len(without.paths)} file(s), say {min(without.paths)}, but none of them is "
            f"an image or a mask of {name} in {resolved.where}. Run the audit on these images."
        )
    settings = {**resolved.settings, **({"exclude": list(map(str, without.met))} if without.met else {})}
    known = replace(resolved, settings=settings, excluded=tuple(without.met))
    return replace(known, left_out=beside, troubles=troubles)


def _refusal(troubles: Sequence[Trouble]) -> str:
    """All that is unclear, or the first of it, and how to see the rest."""
    twice = [trouble for trouble in troubles if trouble.kind == LISTED_TWICE]
    if twice:
        more = f" {len(twice) - 1} more files are; the audit lists all." if len(twice) > 1 else ""
        return f"{twice[0].words}.{more}"
    said = "\n  ".join(trouble.words for trouble in troubles[:SHOWN])
    more = f"\n  and {len(troubles) - SHOWN} more of this kind" if len(troubles) > SHOWN else ""
    return (
        f"It is not clear which masks belong to which images:\n  {said}{more}\n"
        "python -m anomaly_lightning.audit with the same data lists all, and data.exclude=<its audit.json> leaves out "
        "what is in the way."
    )


def _listed(file: str) -> list[str]:
    """Paths that an audit.json (or a plain JSON list) names."""
    try:
        content = json.loads(_absolute(file).read_text(encoding="utf-8"))
        return [str(path) for path in (content["exclude"] if isinstance(content, dict) else content)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"data.exclude={file}: expected an audit.json, or a JSON list of paths ({error}).") from error


def _resolve_all(data: Mapping[str, Any], name: str, cache: Path, without: Exclusion) -> Resolved:
    layout = data["layout"]
    if layout == "folder":
        return _read_folder(data, name, without)
    if layout == "manifest":
        if not data["manifest"]:
            raise DataError("data=manifest needs data.manifest=<a .csv or .jsonl file that lists the images>.")
        file = _absolute(data["manifest"])
        category = read_manifest(file, name, without)
        return Resolved(category, str(file), "data.manifest, as set", _settings(layout, manifest=str(file)))
    if layout == "synthetic":
        if data["root"] is not None:
            raise DataError(f"data.root={data['root']} contradicts data=synthetic, which generates its images.")
        return _generate(data, name, cache, "data=synthetic, as set", without)
    return _resolve_root(data, name, cache, without)


def _resolve_root(data: Mapping[str, Any], name: str, cache: Path, without: Exclusion) -> Resolved:
    """A root that was given, else one that is there, else generated images."""
    layout = data["layout"]
    if data["root"] is not None:
        return _read(layout, _absolute(data["root"]), name, "data.root, as set", without)
    if layout != "mvnet":
        raise DataError(f"data={layout} needs data.root=<the folder that holds {name}>.")
    if os.environ.get("MVNET_ROOT"):
        return _read(layout, _absolute(os.environ["MVNET_ROOT"]), name, "$MVNET_ROOT", without)
    if categories_in(DEFAULT_ROOT):
        return _read(layout, _absolute(DEFAULT_ROOT), name, f"found in {DEFAULT_ROOT}", without)
    why = f"no data.root set, no $MVNET_ROOT, no {DEFAULT_ROOT}: generated images"
    return _generate(data, name, cache, why, without)


def _absolute(path: str | Path) -> Path:
    return on_disk(Path(path).expanduser().absolute())


def _settings(layout: str, **places: Any) -> dict[str, Any]:
    return {"layout": layout, **dict.fromkeys(PLACES), **places}


def _read(layout: str, root: Path, name: str, why: str, without: Exclusion) -> Resolved:
    mvnet = layout == "mvnet"
    category = read_category(root, name, without) if mvnet else read_layout(root, name, layout, without)
    return Resolved(category, str(root), why, _settings(layout, root=str(root)))


def _read_folder(data: Mapping[str, Any], name: str, without: Exclusion) -> Resolved:
    def folders(key: str) -> list[Path]:
        given = data[key]
        return [_absolute(folder) for folder in ([given] if isinstance(given, str) else given or [])]

    def folder(key: str) -> Path | None:
        return _absolute(data[key]) if data[key] else None

    if not data["normal"]:
        raise DataError("data=folder needs data.normal=<folder of images of good parts>, or a list of such folders.")
    normal, normal_test, abnormal, masks = (
        folders("normal"),
        folders("normal_test"),
        folder("abnormal"),
        folder("masks"),
    )
    category = read_folder(name, normal, abnormal, masks, normal_test, without)
    places = {"normal": [str(path) for path in normal], "normal_test": [str(path) for path in normal_test]}
    places |= {"abnormal": abnormal and str(abnormal), "masks": masks and str(masks)}  # type: ignore[dict-item]
    return Resolved(category, ", ".join(map(str, normal)), "data.normal, as set", _settings("folder", **places))


def _generate(data: Mapping[str, Any], name: str, cache: Path, why: str, without: Exclusion) -> Resolved:
    if name not in synthetic.CATEGORIES:
        raise DataError(
            f"There are no images of category {name!r} ({why}), and it can't be generated. Set data.root=<folder "
            f"that holds {name}/train/good>, or take one of: {', '.join(synthetic.CATEGORIES)}."
        )
    wanted = data["generate"]
    kept = cache / "synthetic"
    mark_cache(kept)
    root = synthetic.generate(
        kept,
        name,
        seed=wanted["seed"],
        train=wanted["train"],
        test_good=wanted["test_good"],
        defects_each=wanted["defects_each"],
        size=tuple(wanted["size"]),
    )
    return Resolved(read_category(root, name, without), str(root), why, _settings("mvnet", root=str(root.absolute())))
