"""Odd names, folders that can't be written, a full disk, and names that would lead out of the output folder."""

import csv
import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import BARE, SMALL, command, flat, save, texture

from anomaly_lightning.cli import DISK_TROUBLE, disk_trouble
from anomaly_lightning.deploy.outputs import output_names
from anomaly_lightning.runtime.names import below, distinct, folder_name, save_image

ODD = ["with space.png", "größe 部品.png", "two\nlines.png", "semi;colon'quote.png", "[brackets].png", "-dash.png"]


def test_odd_names_go_all_the_way(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "my data" / "widget"
    for number, name in enumerate(ODD * 2):
        save(texture(rng), folder / "train" / "good" / (f"{number}" + name))
    for name in ODD:
        save(texture(rng), folder / "test" / "odd defect" / name)
    ran = command(
        "train", *SMALL, "category=custom", "category.name=widget", f"data.root={folder.parent}",
        "hydra.run.dir=my outputs/run 1", cwd=tmp_path,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    run = tmp_path / "my outputs" / "run 1"
    assert {path.name for path in (run / "heatmaps" / "odd_defect").iterdir()} == set(ODD)
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        assert {Path(row["path"]).name for row in csv.DictReader(stream)} == set(ODD)
    given = (f"checkpoint='{run}/checkpoints/best.ckpt'", f"input='{folder}/test'", f"output='{tmp_path}/out 1'")
    ran = command("predict", *given, "device=cpu", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert {path.name for path in (tmp_path / "out 1" / "heatmaps" / "odd defect").iterdir()} == set(ODD)


@pytest.mark.parametrize("name", ["../../out", "/etc/passwd", "..", "a/../../b", ".hidden", "", "\x00", "x" * 400])
def test_no_text_makes_a_folder_name_that_leads_elsewhere(tmp_path, name):
    made = folder_name(name)
    assert (tmp_path / made).resolve().parent == tmp_path.resolve()
    assert len(made) <= 100
    (tmp_path / made).mkdir()


def test_outputs_stay_below_the_output_folder_and_apart(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    images = [tmp_path / "a" / ".." / "x.png", tmp_path / "a" / "x.png", tmp_path / "a" / "x.jpg", Path("../y.png")]
    images += [tmp_path / "a" / "x_jpg.png", Path("/elsewhere/x.png"), Path("/elsewhere/other/x.png")]
    names = output_names(images, tmp_path / "a")
    assert len(set(names.values())) == len(images)
    for name in names.values():
        assert not name.is_absolute()
        assert ".." not in name.parts
    assert below(Path("a/../../b.png"), Path("a")) == Path("b.png")
    assert distinct(Path("d/x"), {Path("d/x"), Path("d/x_2")}) == Path("d/x_3")


def test_a_defect_named_like_a_path_stays_in_the_heatmaps(root, tmp_path):
    images = sorted((root / "widget" / "train" / "good").glob("*.png"))
    table = [{"path": str(path)} for path in images]
    for name, image in (("../../../escaped", "0"), ("/tmp/escaped", "1")):
        table.append({"path": str(root / "widget" / "test" / "spot" / f"{image}.png"), "defect": name})
    (tmp_path / "parts.jsonl").write_text("\n".join(map(json.dumps, table)))
    small = (*SMALL, "data=manifest", "category.name=../../widget", f"data.manifest={tmp_path / 'parts.jsonl'}")
    (tmp_path / "here").mkdir()
    before = {path for path in tmp_path.rglob("*") if "here" not in path.parts}
    ran = command("train", *small, cwd=tmp_path / "here")
    assert ran.code == 0, ran.out
    assert {path for path in tmp_path.rglob("*") if "here" not in path.parts} == before
    drawn = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "here").glob("outputs/*/*/*/*/heatmaps/*/*")]
    assert len(drawn) == 2
    assert not Path("/tmp/escaped").exists()


def test_an_error_of_the_disk_says_where_and_what_to_do():
    for number in DISK_TROUBLE:
        words = disk_trouble(OSError(number, "words of the system", "/some/where"))
        assert words.startswith("/some/where: ")
        assert "rite elsewhere" in words
    assert "output or cache folder" in disk_trouble(OSError(errno.ENOSPC, "full"))


def test_a_read_only_output_is_one_paragraph(checkpoint, root, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    given = (f"checkpoint={checkpoint}", f"input={root}/widget/test", f"output={tmp_path}", "device=cpu")
    ran = command("predict", *given, cwd=tmp_path)
    assert ran.code == 1
    assert "this file system is read-only" in flat(ran.out)
    assert "Traceback" not in ran.out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_paragraph(checkpoint, root, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    given = (f"checkpoint={checkpoint}", f"input={root}/widget/test", f"output={tmp_path}/locked/out", "device=cpu")
    ran = command("predict", *given, cwd=tmp_path)
    assert ran.code == 1
    assert "you have no permission" in flat(ran.out)


def test_half_a_image_never_stays(tmp_path, monkeypatch):
    def half(self, target, *_, **__):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_image(Image.new("L", (4, 4)), tmp_path / "new" / "a.png")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of so many KiB; skipped where mounting is not allowed."""
    mounted = []

    def mount(kib):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command_line = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
        if subprocess.run(command_line, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_while_heatmaps_are_written_keeps_what_was_done(checkpoint, tmp_path, small_disk):
    rng = np.random.default_rng(0)
    for number in range(40):
        save(texture(rng), tmp_path / "in" / f"{number}.png")
    place = small_disk(300)
    given = (f"checkpoint={checkpoint}", f"input={tmp_path / 'in'}", f"output={place / 'out'}", "device=cpu")
    ran = command("predict", *given, cwd=tmp_path)
    assert ran.code == 1
    assert "there is no space left" in flat(ran.out)
    assert "Traceback" not in ran.out
    drawn = list((place / "out" / "heatmaps").glob("*.png"))
    assert 2 < len(drawn) < 40
    for path in drawn:
        with Image.open(path) as image:
            image.load()
    with (place / "out" / "decisions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["decision"]]
    assert len(drawn) - 2 <= len(rows) <= len(drawn)


@pytest.mark.parametrize("what", ["hydra.run.dir", "cache.dir"])
def test_a_full_disk_while_training_is_one_paragraph(widget, tmp_path, small_disk, what):
    place = small_disk(40)
    more = () if what == "cache.dir" else (f"cache.dir={tmp_path / 'cache'}",)
    ran = command("train", *widget, *BARE, *more, f"{what}={place / 'x'}", cwd=tmp_path)
    assert ran.code == 1
    assert "no space left" in flat(ran.out).lower()
    assert "Traceback" not in ran.out
