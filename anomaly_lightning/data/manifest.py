"""Anybody's own images by a list: a CSV or JSON lines file, as a category."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.folder import UNNAMED_DEFECT
from anomaly_lightning.data.samples import GOOD, LISTED_TWICE, Category, Sample, Trouble, is_good
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import on_disk

COLUMNS = ("path", "split", "label", "defect", "mask")
SPLITS = ("train", "test")
NO = ("0", "0.0", "false", "no")  # defect or not, as programs write it; good parts by their names are as good
NOTHING = ("nan", "null", "n/a", "na", "-")  # an empty cell, as programs write it
YES = ("1", "1.0", "true", "yes")
ABNORMAL = ("bad", "abnormal", "anomaly", "anomalous", "defect", "defective", "ng", "ko", "nok", *YES)


def read_manifest(file: Path, name: str, without: Exclusion | None = None) -> Category:
    """List the images that a table names.

    Only `path` is needed; paths are relative to the table. An empty or missing `label` follows from `defect`, a missing
    `defect` of an abnormal image is "defect", and a missing `split` is "train" for normals and "test" for defects.

    Args:
        file: .csv with a head line, or .jsonl (.ndjson) with one object a line.
        name: What the category is to be called.
        without: Files that count as not there.

    Raises:
        DataError: No such file or form, or a row is wrong: an unknown column or value, a contradiction, a defect to
            train on, a file that is not there.

    Returns:
        The category; of a file that is listed more than once the first row, and a trouble.
    """
    without = without or Exclusion()
    kept: dict[Path, tuple[str, Sample]] = {}
    lines: dict[Path, list[int]] = {}
    for line, row in _rows(file):
        split, sample = _sample(file, line, row)
        if without.keeps(path := sample.path):
            kept.setdefault(path, (split, _without(sample, without)))
            lines.setdefault(path, []).append(line)
    train, test = (tuple(sample for split, sample in kept.values() if split == wanted) for wanted in SPLITS)
    if not train:
        raise DataError(f"{file} lists no normal image to train on; expected rows of split train.")
    twice = (_listed_twice(file, path, places) for path, places in lines.items() if len(places) > 1)
    return Category(name, train, test, tuple(twice))


def _listed_twice(file: Path, path: Path, lines: list[int]) -> Trouble:
    places = f"{', '.join(map(str, lines[:-1]))} and {lines[-1]}"
    return Trouble(LISTED_TWICE, (path,), f"{file} lists {path} twice: lines {places}. Keep one of them", ())


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of each row; values are stripped, missing ones "" or absent."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    if file.suffix.lower() not in readers:
        raise DataError(f"data.manifest={file}: expected a file named {', '.join(readers)}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.manifest={file} can't be read as UTF-8 text: {error}") from error
    for line, row in readers[file.suffix.lower()](file, text):
        unknown = sorted(set(map(str, row)) - set(COLUMNS))
        if unknown:
            raise DataError(f"{file}: unknown column {', '.join(unknown)}; expected {', '.join(COLUMNS)}.")
        yield line, {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in NOTHING else text


def _without(sample: Sample, without: Exclusion) -> Sample:
    """The sample without its mask where that is excluded."""
    return sample if sample.mask is None or without.keeps(sample.mask) else replace(sample, mask=None)


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{file}, line {reader.line_num}: more values than columns.")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}.") from error


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {line}: no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f'{file}, line {line}: expected an object like {{"path": "a.png"}}.')
        yield line, row


def _sample(file: Path, line: int, row: dict[str, str]) -> tuple[str, Sample]:
    """Split and sample of one row."""
    where = f"{file}, line {line}"
    path = _existing(file, row.get("path", ""), f"{where}, path")
    defect = _defect(row, where)
    split = row.get("split") or ("train" if defect == GOOD else "test")
    if split not in SPLITS:
        raise DataError(f"{where}: split={split}, expected {' or '.join(SPLITS)} (validation is split off by the run).")
    if split == "train" and defect != GOOD:
        raise DataError(f"{where}: {path} shows a defect ({defect}), but training takes good parts only.")
    mask = _existing(file, row["mask"], f"{where}, mask") if row.get("mask") else None
    return split, Sample(path, defect, mask)


def _defect(row: dict[str, str], where: str) -> str:
    """Defect type that label and defect agree on, "good" for none."""
    label, defect = row.get("label", "").lower(), row.get("defect", "")
    defect = GOOD if _means_good(defect) else defect
    good = _means_good(label)
    if not good and label not in ("", *ABNORMAL):
        known = ", ".join(("good", "ok", "normal", *NO, *ABNORMAL))
        raise DataError(f"{where}: label={label}, expected one of {known}, or nothing.")
    if not label and not defect and row.get("mask"):
        raise DataError(f"{where}: there is a mask, but neither label nor defect; say whether the image is normal.")
    if (good and defect not in ("", GOOD)) or (label in ABNORMAL and defect == GOOD):
        raise DataError(f"{where}: label={label} contradicts defect={defect}.")
    return UNNAMED_DEFECT if label in ABNORMAL and not defect else defect or GOOD


def _means_good(text: str) -> bool:
    return text.lower() in NO or is_good(text)


def _existing(file: Path, value: str, where: str) -> Path:
    if not value:
        raise DataError(f"{where}: expected a file's path, but there is none.")
    path = on_disk(file.parent / value)
    if not path.exists():
        raise DataError(f"{where}: there is no file {path}; paths are relative to the table.")
    return path
