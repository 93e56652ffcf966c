"""The same faults of folders in every layout: what is read, what is refused, and what is said of the rest."""

import csv
import json
import unicodedata

import numpy as np
import pytest
from toy import SMALL, command, flat, make_category, save, texture

from anomaly_lightning.data import sources
from anomaly_lightning.data.intake import UNMATCHED, UNUSED
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import HIDDEN

NFC, NFD = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
PLACES = dict.fromkeys(sources.PLACES)
# Where each layout keeps training normals, tests and masks, below the category's folder.
ROOTS = {
    "mvnet": ("train/good", "test", "ground_truth"),
    "btad": ("train/ok", "test", "ground_truth"),
    "mvtec_loco": ("train/good", "test", "ground_truth"),
    "mvtec_ad_2": ("train/good", "test_public", "test_public/ground_truth"),
    "folder": ("normal", "abnormal", "masks"),
}
every_layout = pytest.mark.parametrize("layout", ROOTS)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root, layout):
    """Resolve the category `c` below root; what `Resolved` says."""
    data = {**PLACES, "layout": layout, "root": str(root)}
    if layout == "folder":
        places = {key: str(root / "c" / key) for key in ("normal", "abnormal", "masks")}
        data = {**PLACES, "layout": layout, **places}
    return sources.resolve(data, "c", root)


def place(root, layout, train=("1.png",), test=(), masks=()):
    for below, names in zip(ROOTS[layout], (train, test, masks), strict=True):
        (root / "c" / below).mkdir(parents=True, exist_ok=True)
        touch(root / "c" / below, *names)


@every_layout
def test_subfolders_count_and_hidden_ones_never(tmp_path, layout):
    place(
        tmp_path,
        layout,
        ("1.png", "cam2/2.png", ".Trash-1000/files/3.png"),
        ("dent/1.png", "dent/cam2/2.png", ".ipynb_checkpoints/x.png"),
        ("dent/1_mask.png", "dent/cam2/2_mask.png", ".old/3_mask.png"),
    )
    resolved = read(tmp_path, layout)
    assert [sample.path.name for sample in resolved.category.train] == ["1.png", "2.png"]
    assert [(s.path.name, s.defect, s.mask.name) for s in resolved.category.test] == [
        ("1.png", "dent", "1_mask.png"),
        ("2.png", "dent", "2_mask.png"),
    ]
    assert {group.why: len(group.paths) for group in resolved.left_out} == {HIDDEN: 3}


@every_layout
@pytest.mark.parametrize("name", ["good", "Good", "OK", "normal"])
def test_customary_names_of_good_parts_are_no_defect(tmp_path, layout, name):
    place(tmp_path, layout, test=(f"{name}/1.png", "dent/1.png"), masks=("dent/1.png",))
    assert [sample.defect for sample in read(tmp_path, layout).category.test if not sample.label] == ["good"]
    assert {sample.defect for sample in read(tmp_path, layout).category.test} == {"good", "dent"}


@every_layout
def test_one_mask_for_two_images_of_one_stem_is_refused(tmp_path, layout):
    place(tmp_path, layout, test=("dent/0.png", "dent/0.jpg"), masks=("dent/0_mask.png",))
    with pytest.raises(DataError, match=r"One mask, .*0_mask.png, fits .*dent/0\.(png|jpg) and .*dent/0\.(png|jpg)"):
        read(tmp_path, layout)


@every_layout
@pytest.mark.parametrize("mask", ["0_gt", "0_label", "mask_0", "0_MASK", "0_Mask", "GT_0", "0"])
def test_masks_of_customary_names_are_found(tmp_path, layout, mask):
    place(tmp_path, layout, test=("Dent/0.png",), masks=(f"dent/{mask}.png",))
    assert [sample.mask.stem for sample in read(tmp_path, layout).category.test] == [mask]


@every_layout
@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC)])
def test_masks_are_found_in_another_unicode_form(tmp_path, layout, image, mask):
    place(tmp_path, layout, test=(f"{image}/{image}.png",), masks=(f"{mask}/{mask}_mask.png",))
    assert [sample.mask.stem for sample in read(tmp_path, layout).category.test] == [f"{mask}_mask"]


@every_layout
def test_masks_that_differ_by_case_go_to_their_own_images(tmp_path, layout):
    place(tmp_path, layout, test=("dent/a.png", "dent/A.png"), masks=("dent/a_mask.png", "dent/A_mask.png"))
    if len(list((tmp_path / "c" / ROOTS[layout][1] / "dent").iterdir())) == 1:
        pytest.skip("this file system does not tell a from A")
    assert all(s.mask.stem == f"{s.path.stem}_mask" for s in read(tmp_path, layout).category.test)


@every_layout
def test_masks_that_fit_no_image_are_counted_by_name(tmp_path, layout):
    place(tmp_path, layout, test=("dent/0.png",), masks=("dent/0.png", "dent/zero_mask.png", "hole/1.png"))
    (group,) = read(tmp_path, layout).left_out
    assert (group.why, sorted(path.name for path in group.paths)) == (UNMATCHED, ["1.png", "zero_mask.png"])
    assert "zero_mask.png" in group.words()


@pytest.mark.parametrize("layout", [layout for layout in ROOTS if layout != "folder"])
def test_images_in_folders_of_no_use_are_counted(tmp_path, layout):
    place(tmp_path, layout, test=("loose.png", "dent/0.png"), masks=("dent/0.png",))
    touch(tmp_path / "c", "train/bad/1.png")
    (group,) = read(tmp_path, layout).left_out
    assert (group.why, sorted(path.name for path in group.paths)) == (UNUSED, ["1.png", "loose.png"])


@every_layout
def test_masks_among_the_images_are_never_taken_for_defects(tmp_path, layout):
    place(tmp_path, layout, test=("dent/0.png", "dent/0_GT.png"))
    if layout == "folder":
        (tmp_path / "c" / "masks").rmdir()
        (tmp_path / "c" / "masks").symlink_to(tmp_path / "c" / "abnormal")
        pytest.skip("asks for data.masks; see test_folder.py")
    with pytest.raises(DataError, match=r"0_GT, which looks like its mask. If it is, move it to .*ground_truth"):
        read(tmp_path, layout)


def manifest(root, rows):
    with (root / "parts.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("path", "defect", "mask"), *rows])
    return sources.resolve({**PLACES, "layout": "manifest", "manifest": str(root / "parts.csv")}, "c", root)


def test_a_table_meets_the_same_rules(tmp_path):
    touch(tmp_path, "1.png", "2.png", "a.png", "a.jpg", "masks/a.png", "masks/b.png")
    resolved = manifest(tmp_path, [("1.png", "Good", ""), ("2.png", "OK", ""), ("a.png", "dent", "masks/a.png")])
    assert len(resolved.category.train) == 2
    assert [(group.why, [p.name for p in group.paths]) for group in resolved.left_out] == [(UNMATCHED, ["b.png"])]
    with pytest.raises(DataError, match=r"a.png, fits .*a.png and .*a.jpg"):
        manifest(tmp_path, [("1.png", "", ""), ("a.png", "dent", "masks/a.png"), ("a.jpg", "dent", "masks/a.png")])


@pytest.fixture
def faulty(tmp_path):
    """A category with masks that are damaged, of another size and of nobody, and hidden files."""
    folder = make_category(tmp_path / "images")
    (folder / "ground_truth" / "spot" / "0_mask.png").write_text("no mask")
    save(np.zeros((84, 60), np.uint8), folder / "ground_truth" / "spot" / "1_mask.png")
    save(np.zeros((60, 84), np.uint8), folder / "ground_truth" / "spot" / "nobody_mask.png")
    save(texture(np.random.default_rng(5)), folder / "train" / "good" / ".Trash-1000" / "files" / "0.png")
    return folder


def train(folder, cwd, *more):
    given = ("category=custom", "category.name=widget", f"data.root={folder.parent}", "callbacks.heatmaps=null")
    ran = command("train", *SMALL, *given, "bootstrap=0", *more, cwd=cwd)
    runs = list(cwd.glob("outputs/train/widget/*/*/run.json"))
    return ran, runs[0].parent if runs else None


def test_an_unreadable_mask_is_named_before_training(faulty, tmp_path):
    ran, run = train(faulty, tmp_path)
    assert ran.code == 1
    assert "1 mask(s) can't be read" in flat(ran.out)
    assert "spot/0_mask.png" in ran.out.replace("\n", "")
    assert "data.on_corrupt=skip" in flat(ran.out)
    assert run is None


def test_what_was_left_out_lasts(faulty, tmp_path, caplog):
    ran, run = train(faulty, tmp_path, "data.on_corrupt=skip")
    assert ran.code == 0, ran.out
    report = json.loads((run / "run.json").read_text())
    assert [path.rpartition("/")[2] for path in report["skipped"]] == ["0_mask.png"]
    assert {group["why"]: group["count"] for group in report["left_out"]} == {HIDDEN: 1, UNMATCHED: 1}
    note = json.loads((run / "metrics.json").read_text())["notes"]["masks"]
    assert "2 mask(s) are left out of the pixel metrics" in note
    assert "1_mask.png is 60x84, but its image" in note
    page = (run / "report.html").read_text()
    assert "are left out of the pixel metrics" in page
    said = ran.out + caplog.text
    assert said.count("nobody_mask.png") >= 1

    for name in ("0_mask.png", "1_mask.png", "nobody_mask.png"):
        (faulty / "ground_truth" / "spot" / name).unlink()
    clean = tmp_path / "clean"
    clean.mkdir()
    ran, other = train(faulty, clean)
    assert ran.code == 0, ran.out
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (run, other))
    assert (ours["image"], ours["pixel"]) == (theirs["image"], theirs["pixel"])
