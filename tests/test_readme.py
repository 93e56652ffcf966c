"""Every command that README.md shows composes."""

import re
import shlex
from pathlib import Path

import pytest
from toy import composed

from anomaly_lightning.places import CONFIG_DIR

README = Path(__file__).parents[1] / "README.md"
COMMAND = re.compile(r"python3?\s+-m\s+anomaly_lightning\.(\w+)\s*(.*)")


def commands(text):
    """(name, arguments) of each command in the fenced blocks; lines that go on are joined, comments left out."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if found := COMMAND.search(line):
                yield found[1], tuple(shlex.split(found[2], comments=True))


COMMANDS = sorted(set(commands(README.read_text(encoding="utf-8"))))


def first_choices(argument):
    """An override of a sweep with the first of its values."""
    key, equals, value = argument.partition("=")
    swept = equals and "," in value and not value.startswith(("[", "{", "'", '"'))
    return f"{key}={value.split(',')[0]}" if swept else argument


def test_commands_are_found_in_fenced_blocks_only():
    text = (
        "python -m anomaly_lightning.train a=1\n```bash\n$ python -m anomaly_lightning.train category=leather \\\n"
        "    seed=1  # why\n.venv/bin/python -m anomaly_lightning.predict 'input=*.png'\n```\n"
    )
    assert list(commands(text)) == [("train", ("category=leather", "seed=1")), ("predict", ("input=*.png",))]


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=lambda value: " ".join(value) if value else "-")
def test_composes(name, arguments):
    if not (CONFIG_DIR / f"{name}.yaml").is_file():
        assert (CONFIG_DIR.parent / "anomaly_lightning" / f"{name}.py").is_file(), f"there is no command {name}"
        return
    options = [a for a in arguments if a.startswith("-") and a not in ("--multirun", "-m")]
    assert set(options) <= {"--help", "--cfg", "--hydra-help"}
    overrides = [first_choices(a).replace("...", "x") for a in arguments if not a.startswith("-")]
    composed(*(override for override in overrides if override not in ("job",)), config=name)
