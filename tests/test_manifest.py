"""Own images by a table."""

import json
import unicodedata
from pathlib import Path

import pytest

from anomaly_lightning.data.exclusion import Exclusion
from anomaly_lightning.data.manifest import read_manifest
from anomaly_lightning.data.sources import resolve
from anomaly_lightning.errors import DataError


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.png", "b.png", "c d.png", "m.png"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_paths_alone_are_normals_to_train_on(folder):
    category = read_manifest(write(folder, "path\na.png\nc d.png\n"), "widgets")
    assert [s.path.name for s in category.train] == ["a.png", "c d.png"]
    assert (category.name, category.test) == ("widgets", ())


def test_all_columns(folder):
    rows = "path,split,label,defect,mask\na.png,train,good,,\nb.png,,,dent,m.png\nc d.png,test,OK,good,\n"
    category = read_manifest(write(folder, "\ufeff" + rows), "x")
    assert [(s.path.name, s.defect) for s in category.train] == [("a.png", "good")]
    assert [(s.path.name, s.defect, s.mask) for s in category.test] == [
        ("b.png", "dent", folder / "m.png"),
        ("c d.png", "good", None),
    ]


def test_json_lines_say_the_same(folder):
    rows = [{"path": "a.png", "label": False}, {"path": "b.png", "label": 1, "mask": None}]
    text = "\n\n".join(map(json.dumps, rows))
    category = read_manifest(write(folder, text, "list.jsonl"), "x")
    assert [s.path.name for s in category.train] == ["a.png"]
    assert [(s.path.name, s.defect) for s in category.test] == [("b.png", "defect")]


def test_absolute_paths_are_taken_as_they_are(folder, tmp_path_factory):
    table = write(tmp_path_factory.mktemp("elsewhere"), f"path\n{folder / 'a.png'}\n")
    assert read_manifest(table, "x").train[0].path == folder / "a.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,lable\na.png,bad\n", "unknown column lable; expected path, split"),
        ("path,label\na.png,maybe\n", "line 2: label=maybe, expected one of good"),
        ("path,split\na.png,val\n", "line 2: split=val, expected train or test"),
        ("path,split,label\na.png,train,bad\n", "line 2: .* training takes good parts only"),
        ("path,label,defect\na.png,good,dent\n", "line 2: label=good contradicts defect=dent"),
        ("path,mask\na.png,m.png\n", "line 2: there is a mask, but neither label nor defect"),
        ("path\na.png\ngone.png\n", "line 3, path: there is no file .*gone.png"),
        ("path,defect,mask\na.png,dent,gone.png\n", "line 2, mask: there is no file"),
        ("split\ntrain\n", "line 2, path: expected a file's path"),
        ("path\na.png,b.png\n", "line 2: more values than columns"),
        ('path,label\n"a.png,good\n', "unexpected end of data"),
        ("path,label\na.png,bad\n", "no normal image to train on"),
        ("", "no normal image to train on"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder, text, words):
    with pytest.raises(DataError, match=words):
        read_manifest(write(folder, text), "x")


def test_of_a_file_that_is_listed_twice_the_first_row_counts_and_training_refuses_it(folder):
    table = write(folder, "path,label\na.png,ok\nb.png,ok\na.png,bad\na.png,\nb.png,\n")
    category = read_manifest(table, "x")
    assert [sample.path.name for sample in category.train] == ["a.png", "b.png"]
    assert category.test == ()
    assert [(trouble.kind, trouble.paths[0].name) for trouble in category.troubles] == [
        ("listed_twice", "a.png"),
        ("listed_twice", "b.png"),
    ]
    data = {"layout": "manifest", "manifest": str(table)}
    with pytest.raises(DataError, match=r"lists .*a.png twice: lines 2, 4 and 5. Keep one of them. 1 more files are"):
        resolve(data, "x", folder)
    assert resolve(data, "x", folder, strict=False).troubles == category.troubles


def test_json_that_is_none_is_said_with_its_line(folder):
    with pytest.raises(DataError, match="line 2: no JSON"):
        read_manifest(write(folder, '{"path": "a.png"}\n{path}\n', "list.jsonl"), "x")
    with pytest.raises(DataError, match="line 1: expected an object"):
        read_manifest(write(folder, '["a.png"]\n', "list.jsonl"), "x")


def test_other_files_are_refused(folder):
    with pytest.raises(DataError, match=r"expected a file named .csv, .jsonl, .ndjson"):
        read_manifest(write(folder, "path", "list.xlsx"), "x")
    with pytest.raises(DataError, match="can't be read"):
        read_manifest(folder / "gone.csv", "x")
    (folder / "list.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_manifest(folder / "list.csv", "x")


@pytest.mark.parametrize("cell", ["Good", "i.O.", "0", "False", "none", "no defect"])
def test_good_parts_go_by_any_customary_word(folder, cell):
    category = read_manifest(write(folder, f"path,defect\na.png,{cell}\nb.png,nan\nc d.png,n/a\n"), "x")
    assert [sample.defect for sample in category.train] == ["good"] * 3
    assert category.test == ()


def test_excluded_rows_and_masks_are_as_if_they_were_not_there(folder):
    table = write(folder, "path,defect,mask\na.png,,\nb.png,dent,m.png\nc d.png,,\n")
    category = read_manifest(table, "x", Exclusion([folder / "a.png", folder / "m.png"]))
    assert [sample.path.name for sample in category.train] == ["c d.png"]
    assert [(sample.path.name, sample.mask) for sample in category.test] == [("b.png", None)]


def test_names_in_another_unicode_form_are_found(folder):
    stored, listed = (unicodedata.normalize(form, "größe.png") for form in ("NFD", "NFC"))
    (folder / stored).touch()
    assert read_manifest(write(folder, f"path\n{listed}\n"), "x").train[0].path.name == stored
