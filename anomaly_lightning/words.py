"""The words of a command line before Hydra reads them: paths and names are to arrive as they were typed.

Hydra's grammar takes the value of any option for a number, null or a list where it can: 2024_06 becomes 202406, 1.10
becomes 1.1, and an umlaut is an error. Which options hold a path or a name is declared here; their values are put into
quotes. A value that stands in quotes already, and what OmegaConf reads in it (${...}), stay as they are.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from anomaly_lightning.errors import UserError


@dataclass(frozen=True)
class Text:
    """An option that holds a path or a name.

    Attributes:
        none: Whether null means none; else it is a name like any other.
        several: Whether a list may be given: "also" beside a single one; "always": a single one becomes a list.
        values: Whether what begins with "[" or "{" is no path but values, which are Hydra's to read.
    """

    none: bool = True
    several: Literal["never", "also", "always"] = "never"
    values: bool = False


ONE, MAYBE = Text(none=False), Text()
SOME, MAYBE_SOME = Text(none=False, several="also"), Text(several="also")

# By option, of every command that has it; * stands for any name. tests/test_words.py asks of each option of each
# command whether it belongs here.
TYPES = {
    "archive": MAYBE,
    "archives.*.address": ONE,
    "archives.*.sha256": MAYBE,
    "backbone.architecture": ONE,
    "backbone.name": ONE,
    "backbone.pretrained": MAYBE,
    "backbone.weights": MAYBE,
    "backup": MAYBE,
    "base": ONE,
    "bundle": MAYBE,
    "bundles": Text(none=False, several="always"),
    "cache.dir": ONE,
    "callbacks.*.defects": MAYBE,
    "callbacks.*.dirpath": ONE,
    "callbacks.*.filename": ONE,
    "callbacks.*.folder": ONE,
    "category.name": ONE,
    "certificates.result": ONE,
    "certificates.root": MAYBE,
    "checkpoint": ONE,
    "ckpt": MAYBE,
    "data.abnormal": MAYBE,
    "data.category": MAYBE,
    "data.exclude": MAYBE_SOME,
    "data.manifest": MAYBE,
    "data.masks": MAYBE,
    "data.normal": MAYBE_SOME,
    "data.normal_test": MAYBE_SOME,
    "data.roi": Text(values=True),
    "data.root": MAYBE,
    "defects": MAYBE,
    "drift.state": MAYBE,
    "folders": Text(several="always"),
    "hosts": MAYBE_SOME,
    "hydra.job.name": ONE,
    "hydra.launcher.account": MAYBE,
    "hydra.launcher.partition": MAYBE,
    "hydra.launcher.qos": MAYBE,
    "hydra.run.dir": ONE,
    "hydra.sweep.dir": ONE,
    "hydra.sweep.subdir": ONE,
    "hydra.sweeper.storage": MAYBE,
    "hydra.sweeper.study_name": MAYBE,
    "input": MAYBE,
    "labelled_defects": MAYBE,
    "load.bundle": MAYBE,
    "load.images": MAYBE,
    "logger.*.name": ONE,
    "logger.*.save_dir": ONE,
    "logger.*.version": MAYBE,
    "manifest": MAYBE,
    "marks": MAYBE,
    "model_name": MAYBE,
    "normals": MAYBE,
    "output": ONE,
    "parity.images": MAYBE,
    "quality.against": MAYBE,
    "quality.result": ONE,
    "quality.root": MAYBE,
    "ray.address": MAYBE,
    "read_token": MAYBE,
    "read_token_file": MAYBE,
    "root": ONE,
    "run": ONE,
    "run_dir": ONE,
    "runs": SOME,
    "scale.folder": MAYBE,
    "sink.*.ca_file": MAYBE,
    "sink.*.client_id": ONE,
    "sink.*.folder": ONE,
    "sink.*.host": MAYBE,
    "sink.*.topic": ONE,
    "sink.*.url": MAYBE,
    "sink.*.username": MAYBE,
    "source.file": ONE,
    "source.folder": ONE,
    "source.url": ONE,
    "store": ONE,
    "streams.checkpoints": Text(none=False, several="always"),
    "streams.pools": ONE,
    "table": MAYBE,
    "token": MAYBE,
    "token_file": MAYBE,
    "trust": Text(none=False, several="always"),
    "watch": MAYBE,
    "whole.address": ONE,
    "whole.sha256": MAYBE,
    "why": MAYBE,
}
# Where a command's option differs from the others' of that name.
OF_COMMAND = {
    "download": {"category": ONE},
    "leaderboard": {"output": MAYBE},
    "line": {"name": ONE, "bundle": ONE},
    "serve": {"host": ONE, "bundle": Text(none=False, values=True)},
}
# What the commands that train take as a choice of files of conf/, and Hydra therefore everywhere, is an option here.
_DATA = {"category": "data.category", "data": "data.layout"}
SHORT = {"evaluate": _DATA, "export": _DATA}
_SWEEP_FUNCTIONS = re.compile(r"(choice|glob|shuffle|sort|tag)\s*\(.*\)", re.DOTALL)
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


def declared(command: str, option: str) -> Text | None:
    """Type of an option that holds a path or a name, None for any other."""
    own = OF_COMMAND.get(command, {})
    if option in own or option in TYPES:
        return own.get(option) or TYPES[option]
    return next((kind for name, kind in TYPES.items() if "*" in name and fnmatchcase(option, name)), None)


def as_typed(command: str, words: Sequence[str]) -> list[str]:
    """The words, with the values of paths and names in quotes.

    Args:
        command: Name of the command, "train" say.
        words: As the shell gave them, without the program.

    Raises:
        UserError: A word that Hydra's grammar does not know; the message has the one that works.
    """
    sweeping = any(word in ("-m", "--multirun") or re.match(r"hydra\.mode=|\+{0,2}sweep=", word) for word in words)
    # Hydra's own flags, and what follows one of them: --cfg job.
    flags = {place for place, word in enumerate(words) if word.startswith("-")}
    flags |= {place + 1 for place in flags if place + 1 < len(words) and "=" not in words[place + 1]}
    return [word if place in flags else _word(command, word, sweeping) for place, word in enumerate(words)]


def quoted(value: str) -> str:
    """A value as Hydra reads it back as this very text."""
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def command_line(command: str, words: Sequence[str]) -> str:
    """What to type into a shell to run a command with these words."""
    return shlex.join(["python", "-m", f"anomaly_lightning.{command}", *words])


def _word(command: str, word: str, sweeping: bool) -> str:
    key, equals, value = word.partition("=")
    if key in SHORT.get(command, {}):
        key = SHORT[command][key]
        word = f"{key}{equals}{value}"
    kind = declared(command, key.lstrip("+"))
    if equals and kind is not None and value:
        word = f"{key}={_value(value, kind, sweeping)}"
    try:
        OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UserError(_advice(word, str(error).splitlines()[0])) from error
    return word


def _value(value: str, kind: Text, sweeping: bool) -> str:
    """One value, or the choices of a sweep."""
    if kind.values and value.startswith(("[", "{")):
        return value
    if not sweeping:
        return _choice(value, kind)
    if _SWEEP_FUNCTIONS.fullmatch(value):
        return value
    return ",".join(_choice(choice, kind) for choice in _split(value, kind.several != "never"))


def _choice(value: str, kind: Text) -> str:
    if kind.none and value.lower() == "null":
        return "null"
    if kind.several != "never" and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_literal(element) for element in _split(value[1:-1], lists=False))}]"
    return f"[{_literal(value)}]" if kind.several == "always" else _literal(value)


def _literal(value: str) -> str:
    """The text in quotes, unless it is already."""
    return value if re.fullmatch(_QUOTED, value, re.DOTALL) else quoted(value)


def _split(text: str, lists: bool) -> Iterator[str]:
    """Parts between commas, without the blanks around them; a comma in quotes, or within a list, parts nothing."""
    whole = rf"{_QUOTED}|\[[^\]]*\]" if lists else _QUOTED
    part = re.compile(rf"\s*({whole}|[^,]*?)\s*(,|$)", re.DOTALL)
    place = 0
    while place < len(text) and (found := part.match(text, place)):
        yield found[1]
        place = found.end()


def _advice(word: str, reason: str) -> str:
    """What to type in the place of a word that can't be read."""
    key, equals, value = word.partition("=")
    better = f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"
    try:
        OverridesParser.create().parse_override(better)
    except HydraException:
        equals = ""
    if not equals:
        return f"Expected option=value, got {word} ({reason}). --help lists the options."
    return f"{word}: Hydra's grammar can't read this value ({reason}). In quotes it can: {shlex.quote(better)}"
