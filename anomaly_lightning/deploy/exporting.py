"""The export command: graph, comparison with the checkpoint, bundle; on failure nothing is kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig
from rich.console import Console

from anomaly_lightning.data.splits import Splits
from anomaly_lightning.deploy import bundling, cost, parity
from anomaly_lightning.deploy.drift import drift_of
from anomaly_lightning.deploy.graph import packed, to_onnx
from anomaly_lightning.deploy.inputs import find_images
from anomaly_lightning.errors import DataError, ExportError, MissingExtraError, UserError
from anomaly_lightning.model import AnomalyModel
from anomaly_lightning.reports import run_files
from anomaly_lightning.runtime.bundle import MODEL_FILES, PARITY
from anomaly_lightning.runtime.card import ModelCard
from anomaly_lightning.runtime.engines import ExportedEngine, load_engine, wanted_threads
from anomaly_lightning.runtime.inspector import Inspector
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training.checkpoint import TorchEngine, load_model
from anomaly_lightning.training.evaluation import made_again
from anomaly_lightning.training.exported import ExportedModel
from anomaly_lightning.training.tested_data import what_to_test

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Images:
    """What a comparison is made on: files, and in words which they are."""

    paths: Sequence[Path]
    source: str


def export(cfg: DictConfig) -> Path:
    """Do what the config says; returns the bundle's folder.

    Raises:
        ExportError: The model can't be exported, or is not equal to its checkpoint; nothing was kept.
        UserError: An option without a meaning, or an input that can't be used.
    """
    output = Path(cfg.output).expanduser().absolute()
    with bundling.staged(output, cfg.overwrite) as making:
        certificate = make(cfg, making)
    show(output, certificate)
    return output


def make(cfg: DictConfig, making: Path) -> dict[str, Any]:
    """Write a bundle into an empty folder, compared with its checkpoint; returns what parity.json holds of it.

    Args:
        cfg: As `export` takes it; its `output` is not looked at.
        making: The folder; who calls gives it its name, or removes it where this raises.
    """
    _check(cfg)
    model, card = load_model(Path(cfg.checkpoint), list(cfg.trust))
    images, start = _images(cfg, card), time.perf_counter()
    splits = None if cfg.precision == "fp32" else _splits(cfg, card)
    _write(cfg.format, making, packed(_graph(cfg, model, card, splits)))
    seconds = time.perf_counter() - start
    made, metrics = card, None
    bundling.write_manifest(making, made, cfg.format, cfg.precision)
    if cfg.precision == "int8" and splits is not None:
        made = cost.recalibrated(card, model, _exported(making, card), splits.validation)
        bundling.write_manifest(making, made, cfg.format, cfg.precision)
    made = made.replace(drift=drift_of(cfg, making, made))
    bundling.write_manifest(making, made, cfg.format, cfg.precision)
    ours, theirs = Inspector(card, TorchEngine(model, "cpu")), Inspector.load(making, "cpu")
    found = parity.compare(ours, theirs, images.paths)
    if splits is not None:
        metrics = cost.cost(model, _exported(making, made), (card, made), splits.test)
    if cfg.precision == "int8":
        cost.check(metrics, found, cfg.precision, cfg.quantise.tolerance)
    else:
        found.check(cfg.precision, card.features.dtype, cfg.format)
    whole = [Path(name) for name in found.scores if Path(name).is_file()]
    certificate = _certificate(cfg, images, found, card.features.dtype)
    certificate |= {"metrics": metrics, "export_s": seconds, "latency": parity.latency(ours, theirs, whole)}
    _finish(cfg, making, made, certificate, found)
    return certificate


def _splits(cfg: DictConfig, card: ModelCard) -> Splits:
    """The run's training and validation normals and test images, tiles where it had tiles.

    Raises:
        ExportError: They are not where they were.
    """
    try:
        return made_again(cfg, card, what_to_test(cfg, card))[0].splits
    except DataError as error:
        raise ExportError(
            f"precision={cfg.precision} needs the run's own images: {error} Set data.root to where they are."
        ) from error


def _graph(cfg: DictConfig, model: AnomalyModel, card: ModelCard, splits: Splits | None) -> "onnx.ModelProto":
    """The graph in the precision that was asked for."""
    proto = to_onnx(model, card.transform.size)
    if splits is None:
        return proto
    from anomaly_lightning.deploy import precision

    if cfg.precision == "fp16":
        return precision.half(proto)
    transform = ImageTransform.from_card(card.transform)
    chosen = bundling.spread([sample.path for sample in splits.train], cfg.quantise.images)
    return precision.quantised(proto, (transform(transform.read(path)) for path in chosen))


def _write(format: str, folder: Path, graph: bytes) -> None:
    """The model's files.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ExportError: It can't read the graph.
    """
    if format == "onnx":
        (folder / MODEL_FILES["onnx"][0]).write_bytes(graph)
        return
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError("format=openvino", error.name, "openvino") from error
    try:
        openvino.save_model(openvino.Core().read_model(graph), folder / MODEL_FILES[format][0], compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {openvino.__version__} can't read the exported graph: {error}") from error


def _exported(folder: Path, card: ModelCard) -> ExportedModel:
    """The bundle that is being made, as an evaluation takes it."""
    return ExportedModel(cast(ExportedEngine, load_engine(folder, "cpu", ())[1]), card)


def _check(cfg: DictConfig) -> None:
    if cfg.format not in MODEL_FILES:
        raise UserError(f"format={cfg.format}: expected one of {', '.join(MODEL_FILES)}.")
    if cfg.precision not in PRECISIONS:
        raise UserError(f"precision={cfg.precision}: expected one of {', '.join(PRECISIONS)}.")
    if cfg.references < 0:
        raise UserError(f"references={cfg.references}: expected 0 or more images.")
    if cfg.parity.limit is not None and cfg.parity.limit < 1:
        raise UserError(f"parity.limit={cfg.parity.limit}: expected 1 image or more to compare on, or null for all.")


def _images(cfg: DictConfig, card: ModelCard) -> Images:
    """The images to compare on, at most `parity.limit`."""
    if cfg.parity.images is not None:
        paths, _ = find_images(str(cfg.parity.images))
        source = str(cfg.parity.images)
    else:
        paths, source = _of_the_run(cfg, card)
    limit = cfg.parity.limit
    return Images(paths if limit is None else bundling.spread(paths, limit), source)


def _of_the_run(cfg: DictConfig, card: ModelCard) -> tuple[list[Path], str]:
    """Test images of the run, else its validation normals."""
    try:
        datamodule, resolved = made_again(cfg, card, what_to_test(cfg, card), masks=False)
    except DataError as error:
        raise ExportError(
            f"There are no images to compare on: {error} Set data.root to where they are, or parity.images to a folder."
        ) from error
    splits = datamodule.splits
    role, chosen = ("test images", splits.test) if splits.test else ("validation normals", splits.validation)
    return [sample.path for sample in chosen], f"{role} of the run, from {resolved.where}"


def _certificate(cfg: DictConfig, images: Images, found: parity.Parity, dtype: str) -> dict[str, Any]:
    """Content of parity.json, without what follows from it."""
    if cfg.precision == "int8":
        tolerance: dict[str, float] = {"metrics": cfg.quantise.tolerance}
    else:
        tolerance = {**parity.tolerances(cfg.precision, dtype, cfg.format), "decisions": 0}
    return {
        "format": cfg.format,
        "precision": cfg.precision,
        "source": images.source,
        "tolerance": tolerance,
        "features_rounded_to": dtype,
        **found.block(),
        "threads": wanted_threads(None) or "one a core",
        "machine": run_files.environment()["hardware"],
        "versions": run_files.versions() | {"onnxruntime": run_files.installed("onnxruntime")},
    }


def _finish(cfg: DictConfig, folder: Path, card: ModelCard, certificate: dict[str, Any], found: parity.Parity) -> None:
    """Write all that stands beside the model, and the manifest over it."""
    compared = [Path(name) for name in found.scores if Path(name).is_file()]
    copied = bundling.copy_references(folder, compared, cfg.references)
    references = [{"file": name, "score": found.scores[str(path)][1]} for name, path in copied.items()]
    run_files.write_json(folder / PARITY, {**certificate, "references": references})
    bundling.write_licenses(folder, card.backbone, bool(copied))
    bundling.write_manifest(folder, card, cfg.format, cfg.precision)


def show(output: Path, certificate: dict[str, Any]) -> None:
    """Print where a bundle lies, and how equal it is to its checkpoint."""
    times = certificate["latency"]
    lines = [
        f"bundle: {output}",
        f"compared with the checkpoint on {certificate['images']} images ({certificate['source']}): score within "
        f"{certificate['score']['largest_relative_difference']:.1e}, map within "
        f"{certificate['map']['largest_relative_difference']:.1e}; decisions that differ: "
        f"{certificate['decisions']['differ']}",
        f"network alone, one image, {certificate['threads']} thread(s): torch {times['torch']['p50_ms']:.1f} ms, "
        f"exported {times['exported']['p50_ms']:.1f} ms (p50)",
    ]
    for name, values in (certificate.get("metrics") or {}).items():
        if values["checkpoint"] is not None and values["exported"] is not None:
            lines.append(f"{name}: {values['checkpoint']:.4f}, exported {values['exported']:.4f}")
    for line in lines:
        Console().print(line, soft_wrap=True, highlight=False)
