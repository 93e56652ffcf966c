"""Paths and names arrive as they were typed, in every option that holds one; null means none where there is such."""

import csv
import json
import shlex

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from toy import command, flat, make_category, save, texture

from anomaly_lightning.configs import composed
from anomaly_lightning.errors import UserError
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.words import ONE, TYPES, as_typed, declared

AWKWARD = (
    "2024_06", "2024_07_01", "7", "007", "1.10", "1e3", "1_000.5", "nan", "inf", "true", "Prüfteile Größe", "a=b",
    "part (1).png", "#3", "it's", 'a "b" c', "a\\", "C:\\x\\y", "[1].png", "{a: 1}", "a, b", " a ", "'", '"', "a:b",
    "$x", "@a", "x\ny", "'a'b'", "~/x", "**/*.png", "str(1)", "glob(x)", "-1", "é", "检查",
)  # fmt: skip
# Options whose value is one of a few words, a number, or another part of the config: none is a path or a name.
NO_TEXT = {
    "accept_license", "action", "backbone.layers", "backbone.library", "behind", "bench.baseline", "budget_ms",
    "cache.dtype", "cache.mode", "calibrate_on", "callbacks.best.monitor", "callbacks.calibration.folds",
    "callbacks.calibration.pixel_rule", "callbacks.calibration.rule", "callbacks.heatmaps", "callbacks.learning",
    "callbacks.panels", "callbacks.pruning", "callbacks.stopping.monitor", "certificates.images",
    "certificates.precision", "data.layout", "data.on_corrupt", "data.resize", "data.seed", "data.shots",
    "data.split", "data.tile", "data.white", "deadline_ms", "device", "drift.reset", "engine", "features.coarse",
    "features.groups", "format", "heatmaps", "images", "keep", "license", "load.threads", "localiser.detector.seed",
    "memory.images", "model.components", "model.seed", "page", "pixel_threshold.review_budget", "precision",
    "ray.actors", "reuse", "scoring.reduction", "sink.mqtt.password_env", "sink.webhook.secret_env", "source.fps",
    "source.height", "source.per_minute", "source.width", "suite", "threads", "threshold.review_budget", "to",
    "trainer.accelerator", "trainer.deterministic", "trainer.precision", "trainer.strategy",
}  # fmt: skip
COMMANDS = (
    "audit", "benchmark", "benchmark_model", "cache", "compare", "download", "evaluate", "export", "leaderboard",
    "line", "marks", "predict", "recalibrate", "report", "serve", "train", "update", "versions",
)  # fmt: skip


def arrived(word):
    """What Hydra makes of one override."""
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("name", [*AWKWARD, "null", "NULL"])
def test_a_name_arrives_as_typed(name):
    (word,) = as_typed("train", [f"category.name={name}"])
    assert arrived(word) == name
    assert as_typed("train", [word]) == [word], "words that were made readable stay as they are"


@pytest.mark.parametrize("name", [name for name in AWKWARD if "," not in name and name == name.strip()])
def test_a_name_arrives_as_typed_in_a_list_and_in_a_sweep(name):
    assert arrived(*as_typed("train", [f"data.normal=[2024_06,{name}]"])) == ["2024_06", name]
    if name in ("str(1)", "glob(x)"):
        return
    (word,) = as_typed("train", ["-m", f"data.root={name},2024_06"])[1:]
    choices = OverridesParser.create().parse_override(word).sweep_string_iterator()
    assert [arrived(f"data.root={choice}") for choice in choices] == [name, "2024_06"]


@pytest.mark.parametrize("option", sorted(TYPES))
def test_every_option_with_a_path_or_a_name_keeps_both(option):
    option = option.replace("*", "tensorboard")
    assert arrived(*as_typed("predict", [f"{option}=2024_07_01"])) in ("2024_07_01", ["2024_07_01"])
    assert arrived(*as_typed("predict", [f"+{option}=1.10"])) in ("1.10", ["1.10"])


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("train", "data.root", None),
        ("train", "ckpt", None),
        ("train", "data.normal", None),
        ("train", "category.name", "null"),
        ("predict", "input", None),
        ("predict", "output", "null"),
        ("predict", "watch", None),
        ("audit", "output", "null"),
        ("leaderboard", "output", None),
        ("leaderboard", "runs", "null"),
        ("report", "run", "null"),
        ("cache", "folders", None),
        ("evaluate", "category", None),
        ("evaluate", "checkpoint", "null"),
        ("download", "category", "null"),
        ("download", "archive", None),
    ],
)
def test_null_means_none_where_the_option_may_be_none_and_is_a_name_elsewhere(name, option, expected):
    assert arrived(*as_typed(name, [f"{option}=null"])) == expected


def test_other_values_are_hydras():
    words = ["seed=1_0", "data.roi=[[0,1],[1,1]]", "~callbacks.best", "category=leather", "data.root='a, b'", "ckpt="]
    assert as_typed("train", words) == words
    assert arrived(*as_typed("train", ["data.roi=2024_06"])) == "2024_06"
    assert arrived(*as_typed("predict", ["trust=[]"])) == []


def test_flags_are_hydras_and_so_is_what_follows_them():
    words = ["--cfg", "job", "--config-dir", "2024_06", "-m", "--help"]
    assert as_typed("train", words) == words


def test_the_choices_of_a_sweep_are_names_each():
    words = as_typed("train", ["--multirun", "category.name=7,'a,b', 1.10", "data.normal=[7,8],9", "ckpt=choice(a,b)"])
    assert words[1:] == ["category.name='7','a,b','1.10'", "data.normal=['7','8'],'9'", "ckpt=choice(a,b)"]


def test_what_omegaconf_reads_in_a_text_stays():
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", as_typed("train", ["run_dir=x/${seed}_07", "seed=3"]))
    assert cfg.run_dir == "x/3_07"


@pytest.mark.parametrize("word", ["model.noise=ä", "model.noise=a(", "seed=[1", "features.grid=a'b"])
def test_the_message_has_the_word_that_works(word):
    with pytest.raises(UserError) as raised:
        as_typed("train", [word])
    (shown,) = shlex.split(str(raised.value).rpartition("In quotes it can: ")[2])
    key, _, value = word.partition("=")
    assert shown.startswith(f"{key}=")
    assert arrived(shown) == value


@pytest.mark.parametrize("word", ["best.ckpt", "checkpoint", "grösse=3"])
def test_a_word_that_is_no_option_is_said_to_be_none(word, tmp_path):
    ran = command("evaluate", word, cwd=tmp_path)
    assert ran.code == 1
    assert f"Expected option=value, got {word}" in flat(ran.out)
    assert "Traceback" not in ran.out


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", COMMANDS)
def test_of_each_option_it_was_decided_whether_it_holds_a_path_or_a_name(name):
    """Fails for a new option whose default is a text, null or ???: it belongs into words.TYPES, or above."""
    choices = [[], ["data=folder", "backbone=timm"], ["data=manifest"]] if name in ("train", "audit") else [[]]
    if name == "line":
        choices = [[f"source={path.stem}"] for path in (CONFIG_DIR / "source").glob("*.yaml")]
    for chosen in choices:
        with initialize_config_dir(str(CONFIG_DIR / ("download" if name == "download" else "")), version_base="1.3"):
            cfg = OmegaConf.to_container(compose(name, chosen), resolve=False)
        texts = {key for key, value in leaves(cfg) if value is None or isinstance(value, str)}
        texts = {key for key in texts if not key.endswith("_target_")}
        assert sorted(key for key in texts - NO_TEXT if declared(name, key) is None) == []
        assert sorted(key for key in texts & NO_TEXT if declared(name, key) is not None) == []
        assert declared(name, "output") in (None, ONE) or name == "leaderboard"


def test_predict_reads_and_writes_where_it_was_told_to(checkpoint, tmp_path):
    name = "Prüfteile (1) #3=a"
    save(texture(np.random.default_rng(0)), tmp_path / name / "2024_06" / "1e3.png")
    ran = command("predict", f"checkpoint={checkpoint}", f"input={name}", "output=2024_07_01", cwd=tmp_path)
    assert ran.code == 0, ran.out
    with (tmp_path / "2024_07_01" / "decisions.csv").open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [f"{name}/2024_06/1e3.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2024_07_01", name]


def test_train_takes_names_as_typed_and_so_do_the_commands_after_it(widget, tmp_path):
    make_category(tmp_path / "2024_06", "1.10", normals=8, test_good=2)
    given = [word for word in widget if not word.startswith(("category.name", "data.root"))]
    where = ("category.name=1.10", "data.root=2024_06", "hydra.run.dir=1e3", "bootstrap=0")
    ran = command("train", *given, *where, cwd=tmp_path)
    assert ran.code == 0, ran.out
    metrics = json.loads((tmp_path / "1e3" / "metrics.json").read_text())
    assert metrics["category"] == "1.10"
    run = json.loads((tmp_path / "1e3" / "run.json").read_text())
    assert run["card"]["data"]["places"]["root"] == str(tmp_path / "2024_06")
    assert run["command"][1:] == [*given, *where], "as typed, so that it can be typed again"
    report = tmp_path / "1e3" / "report.html"
    report.unlink()
    assert command("report", "run=1e3", cwd=tmp_path).code == 0
    assert report.is_file()
    assert command("leaderboard", "runs=[1e3]", "output=null", cwd=tmp_path).code == 0
    assert (tmp_path / "1e3" / "leaderboard.csv").is_file()
    assert command("leaderboard", "runs=1e3", "output=2024_07_01", cwd=tmp_path).code == 0
    assert (tmp_path / "2024_07_01" / "leaderboard.csv").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1e3", "2024_06", "2024_07_01"]


def test_python_takes_names_as_typed_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed("train", ["data=folder", "category.name=2024_06", "hydra.run.dir=1.10", "data.normal=[7]"])
    assert (cfg.category.name, cfg.run_dir, cfg.data.normal) == ("2024_06", str(tmp_path / "1.10"), ["7"])


def test_a_single_name_where_a_list_is_wanted_is_a_list_of_one(checkpoint, tmp_path):
    ran = command("evaluate", f"checkpoint={checkpoint}", "trust=my_package", "category=nowhere", cwd=tmp_path)
    assert "nowhere" in ran.out
    ran = command("cache", "action=clear", "folders=2024_06", f"cache.dir={tmp_path}", cwd=tmp_path)
    assert "2024_06" in flat(ran.out)


@pytest.mark.parametrize("file", sorted(CONFIG_DIR.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_option_bears_the_name_of_a_folder_of_choices(file):
    """Hydra takes `model=x` for a choice of conf/model/x.yaml, whatever the command's own file says."""
    groups = {folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()}
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert [name for name, value in values.items() if name in groups and not isinstance(value, dict)] == []
