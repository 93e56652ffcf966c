"""The import direction and the sizes that DESIGN.md agrees on, walked with ast."""

import ast
import sys
from pathlib import Path

import pytest

import anomaly_lightning

PACKAGE = Path(anomaly_lightning.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in FILES]
COMMANDS = (
    "audit", "benchmark", "cache", "compare", "defects", "download", "evaluate", "export", "holdout", "leaderboard",
    "line", "marks", "predict", "recalibrate", "report", "serve", "train", "update", "versions",
)  # fmt: skip
# Which rooms may be imported, from the ground up. A name not listed here stands above all of these.
LAYERS = {
    "errors": (),
    "runtime": ("errors",),
    "data": ("errors", "runtime"),
    "features": ("errors", "runtime", "data"),
    "detectors": ("errors",),
    "scoring": ("errors", "runtime"),
    "calibration": ("errors", "runtime"),
    "metrics": ("errors", "runtime"),
    "review": ("errors", "runtime"),
    "serving": ("errors", "runtime", "review"),
}
PURE = ("runtime", "data", "features", "detectors", "scoring", "calibration", "metrics", "review")
LONGEST_FUNCTION, LONGEST_MODULE = 60, 300


def layer(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Absolute names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """Layers of this package that a file imports, other than its own."""
    prefix = "anomaly_lightning."
    found = {name.removeprefix(prefix).partition(".")[0] for name in imports(path) if name.startswith(prefix)}
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()} - {layer(path)}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_downwards(path):
    if layer(path) in LAYERS:
        assert own(path) <= set(LAYERS[layer(path)])
    if layer(path) not in COMMANDS:
        assert not own(path) & set(COMMANDS), "nobody imports a command line"


def test_the_ground_floor_needs_little():
    free = {"numpy", "PIL", "msgspec", "onnxruntime", "openvino", "anomaly_lightning"} | set(sys.stdlib_module_names)
    for path in (PACKAGE / "runtime").glob("*.py"):
        assert {name.partition(".")[0] for name in imports(path)} <= free, path


def test_callbacks_and_checkpoints_know_no_command_line():
    above = {"cli", "session", "evaluation", "prediction", "build"}
    for path in FILES:
        if layer(path) in ("callbacks", "checkpoint", "results", "predictor"):
            assert not own(path) & above, path


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer(p) in PURE], ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_the_layers_below_know_neither_hydra_nor_lightning(path):
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & {"hydra", "omegaconf"}
    if path.name != "datamodule.py":
        assert not roots & {"pytorch_lightning", "lightning"}


def test_detectors_know_only_their_contract_and_parts():
    for path in (PACKAGE / "detectors").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("anomaly_lightning.detectors")}
        assert {name.split(".")[2] for name in ours if name.count(".") >= 2} <= {"base", "parts"}, path
    base = {name.partition(".")[0] for name in imports(PACKAGE / "detectors" / "base.py")}
    assert base <= {"torch", "collections", "dataclasses", "types", "typing"}


def test_the_ground_floor_is_free_of_frameworks():
    roots = {name.partition(".")[0] for path in (PACKAGE / "runtime").glob("*.py") for name in imports(path)}
    assert not roots & {"torch", "torchvision", "scipy", "matplotlib", "pytorch_lightning", "timm"}


def test_the_command_lines_helper_is_imported_by_commands_alone():
    importing = {path.stem for path in FILES if "anomaly_lightning.cli" in set(imports(path))}
    assert importing <= set(COMMANDS)


def test_hydra_is_known_to_the_command_lines_alone():
    knowing = {layer(path) for path in FILES if any(name.partition(".")[0] == "hydra" for name in imports(path))}
    commands = {layer(path) for path in FILES if "__main__" in path.read_text(encoding="utf-8")}
    assert knowing <= {"cli", "configs", "sweeps", "training", "words"} | commands


def test_there_is_no_drawer_for_everything():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_functions_and_modules_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_options_are_never_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert node.args.kwarg is None, f"{path}:{node.lineno} takes **{node.args.kwarg.arg}"
