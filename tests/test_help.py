"""What --help offers works: the groups that a command takes, and no others."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from toy import command

from anomaly_lightning.places import CONFIG_DIR

# Groups by command; tests/test_configs.py composes each choice.
TAKEN = {
    "train": "category data loading backbone features cache model localiser scoring threshold optimizer trainer "
    "callbacks logger experiment debug sweep",
    "audit": "category data loading backbone features cache model scoring",
    "defects": "category data loading cache",
    "evaluate": "",
    "export": "",
    "serve": "",
    "line": "source sink",
    "marks": "",
    "predict": "",
    "cache": "",
    "leaderboard": "",
    "report": "",
    "download": "",
    "compare": "",
    "recalibrate": "",
    "update": "",
    "versions": "",
}
TAKEN["benchmark"] = TAKEN["train"]


def offered(text):
    """Choices by group, as --help lists them between its heads."""
    listed = re.search(r"== Groups ==\n.*?\n\n(.*?)\n\n", text, re.DOTALL)
    lines = listed[1].splitlines() if listed else []
    return {name: choices.split(", ") for name, _, choices in (line.partition(": ") for line in lines)}


def composes(name, *words):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(name, list(words))


@pytest.mark.parametrize("name", TAKEN)
def test_help_lists_the_groups_that_a_command_takes(name, tmp_path):
    ran = command(name, "--help", cwd=tmp_path)
    assert ran.code == 0
    assert "Configuration groups" not in ran.out
    assert "== Options ==" in ran.out
    found = offered(ran.out)
    assert list(found) == TAKEN[name].split()
    for group, choices in found.items():
        assert choices == sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["train", "audit", "evaluate", "export", "predict", "cache", "leaderboard", "marks", "report", "serve"]
)
def test_a_group_that_is_not_listed_is_not_taken(name):
    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} - {"hydra", *TAKEN[name].split()}
    assert groups
    short = {"data"} if name in ("evaluate", "export") else set()  # for data.layout, on the command line
    for group in groups - short:
        choice = next((CONFIG_DIR / group).glob("*.yaml")).stem
        with pytest.raises(HydraException):
            composes(name, f"{group}={choice}")


def test_evaluate_offers_its_short_words_and_takes_them(tmp_path):
    ran = command("evaluate", "--help", cwd=tmp_path)
    assert "category=<name>" in ran.out
    assert "data=<layout>" in ran.out
    assert "folder, manifest, mvnet" in ran.out
    ran = command("evaluate", "checkpoint=x", "data=folder", "category=2024_06", "--cfg", "job", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert "layout: folder" in ran.out
    assert "category: '2024_06'" in ran.out or "category: 2024_06" in ran.out
