"""An exported bundle: a folder with a model, its card and the proof that it is equal; read here, written by `deploy`.

Nothing in it executes: the network is a graph of known operators in one file, everything else is JSON, text and images.
Every file is held against its sha256 before its bytes are used. A hash tells damage and mix-ups; it does not tell who
wrote the folder.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from anomaly_lightning import __version__
from anomaly_lightning.errors import BundleError
from anomaly_lightning.runtime.card import ModelCard, Part

BUNDLE_SCHEMA = 1  # raise it with every change that an older reader would misread
MANIFEST, PARITY, LICENSES, REFERENCES = "bundle.json", "parity.json", "LICENSES", "references"
# By format; the first is the graph.
MODEL_FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
INPUT = "images"
MAP, SCORE, ERROR_MAP = OUTPUTS = ("anomaly_map", "score", "error_map")


class Manifest(Part, frozen=True):
    """Content of bundle.json.

    Attributes:
        schema: Of this file.
        version: Of the anomaly_lightning that wrote it.
        format: Of the model: "onnx" (model.onnx) or "openvino" (model.xml, model.bin).
        precision: "fp32", "fp16" or "int8".
        input: Name of the input, (B, 3, H, W) float32 as `ImageTransform` makes it; H and W are the card's, B is free.
        outputs: Names of anomaly map (B, H, W), score (B,) and error map (B, h, w), float32.
        card: What the model is.
        files: Hex sha256 of every other file of the folder, by its path relative to it.
    """

    schema: int
    version: str
    format: Literal["onnx", "openvino"]
    precision: Literal["fp32", "fp16", "int8"]
    input: str
    outputs: tuple[str, str, str]
    card: ModelCard
    files: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        folder: Where it lies.
        manifest: Its bundle.json.
        model: Bytes of the files that make the network, in the order of `MODEL_FILES`.
    """

    folder: Path
    manifest: Manifest
    model: tuple[bytes, ...]


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and hold every file against its hash.

    Raises:
        BundleError: It is no bundle, of another schema or a newer version, or a file is missing or changed.
    """
    manifest = read_manifest(folder)
    kept = {name: _verified(folder, name, known) for name, known in manifest.files.items()}
    missing = [name for name in MODEL_FILES[manifest.format] if name not in kept]
    if missing:
        raise BundleError(f"{folder / MANIFEST} lists no {missing[0]}: the bundle is not whole. Export it again.")
    return Bundle(folder, manifest, tuple(kept[name] for name in MODEL_FILES[manifest.format]))


def read_manifest(folder: Path) -> Manifest:
    """Content of a bundle's bundle.json, without a look at the other files.

    Raises:
        BundleError: There is none, or it is damaged, of another schema, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        inside = folder / "checkpoints" / "best.ckpt"
        run = f" It is the folder of a run, whose model is {inside}." if inside.is_file() else ""
        raise BundleError(
            f"{folder} is no bundle: it holds no {MANIFEST}.{run} python -m anomaly_lightning.export makes one."
        )
    try:
        values = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}. Copy the bundle again, or export it again.") from error
    _check_schema(values, path)
    card = ModelCard.from_dict(values.get("card"), str(path))
    try:
        manifest = msgspec.convert({**values, "card": card}, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is damaged: {error}. Copy the bundle again, or export it again.") from error
    _check_version(manifest.version, path)
    return manifest


def sha256(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()


def _check_schema(values: Any, path: Path) -> None:
    found = values.get("schema") if isinstance(values, dict) else None
    if found != BUNDLE_SCHEMA:
        raise BundleError(
            f"{path}: expected a bundle of schema {BUNDLE_SCHEMA}, got {found!r}. Export the checkpoint again with "
            f"anomaly_lightning {__version__}, which is here, or use the version that wrote the bundle."
        )


def _check_version(written: str, path: Path) -> None:
    """Refuse what a newer version wrote: it may mean something that this one does not know."""
    try:
        there, here = (tuple(int(part) for part in text.split(".")[:2]) for text in (written, __version__))
    except ValueError as error:
        raise BundleError(f"{path}: expected a version like {__version__}, got {written!r}.") from error
    if there > here:
        raise BundleError(
            f"{path} was written by anomaly_lightning {written}, this is {__version__}: update anomaly-lightning here, "
            "or export the checkpoint with this version."
        )


def _verified(folder: Path, name: str, known: str) -> bytes:
    """Bytes of a file of the bundle, if they are those that were written."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"{folder / MANIFEST} names {name}, which lies outside the bundle: it is not used.")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / name}: {error.strerror or error}. Copy the bundle again, whole.") from error
    if (found := sha256(content)) != known:
        raise BundleError(
            f"{folder / name} is not the file that was exported: expected sha256 {known}, got {found}. It was changed "
            "or damaged: copy the bundle again, or export it again."
        )
    return content
