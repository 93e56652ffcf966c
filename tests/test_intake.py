"""The same faults of folders in every layout: what is read, what is refused, and what is said of the rest."""

import csv
import json
import shutil
import unicodedata

import numpy as np
import pytest
from toy import BARE, SMALL, command, composed, make_category, save, texture

from anomaly_lightning.data import sources
from anomaly_lightning.data.intake import FOR_GOOD, UNMATCHED, UNUSED
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import HIDDEN
from anomaly_lightning.training.session import TrainingSession

AUDITED = ("backbone=tiny", "data.image_size=[64,48]", "features.grid=[8,6]", "rank=false")
FAST = (*SMALL[:3], "model=pca", "trainer.accelerator=cpu", "bootstrap=0", *BARE)
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


def read(root, layout, exclude=None, strict=True):
    """Resolve the category `c` below root; what `Resolved` says."""
    data = {**PLACES, "layout": layout, "root": str(root), "exclude": exclude}
    if layout == "folder":
        places = {key: str(root / "c" / key) for key in ("normal", "abnormal", "masks")}
        data = {**PLACES, "layout": layout, "exclude": exclude, **places}
    return sources.resolve(data, "c", root, strict)


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
@pytest.mark.parametrize("name", ["good", "Good", "OK", "normal", "i.O.", "Defect-free", "no_anomaly", "Pass"])
def test_customary_names_of_good_parts_are_no_defect(tmp_path, layout, name):
    place(tmp_path, layout, test=(f"{name}/1.png", "dent/1.png"), masks=("dent/1.png",))
    assert [sample.defect for sample in read(tmp_path, layout).category.test if not sample.label] == ["good"]
    assert {sample.defect for sample in read(tmp_path, layout).category.test} == {"good", "dent"}


@every_layout
@pytest.mark.parametrize("name", ["nok", "n.i.O.", "not good", "ok2", "passivation"])
def test_other_names_are_defect_types_as_they_are_written(tmp_path, layout, name):
    place(tmp_path, layout, test=(f"{name}/1.png",), masks=(f"{name}/1.png",))
    assert [sample.defect for sample in read(tmp_path, layout).category.test] == [name]


@every_layout
def test_one_mask_for_two_images_of_one_stem_is_refused(tmp_path, layout):
    place(tmp_path, layout, test=("dent/0.png", "dent/0.jpg", "dent/1.png"), masks=("dent/0_mask.png",))
    with pytest.raises(DataError, match=r"One mask, .*0_mask.png, fits .*dent/0\.(png|jpg) and .*dent/0\.(png|jpg)"):
        read(tmp_path, layout)
    (trouble,) = read(tmp_path, layout, strict=False).troubles
    assert [path.name for path in trouble.exclude] == ["0.jpg"]
    category = read(tmp_path, layout, exclude=list(map(str, trouble.exclude))).category
    assert [(s.path.name, s.mask and s.mask.name) for s in category.test] == [("0.png", "0_mask.png"), ("1.png", None)]


@every_layout
def test_excluded_files_are_as_if_they_were_not_there(tmp_path, layout):
    place(tmp_path, layout, ("1.png", "2.png"), ("dent/0.png", "dent/1.png"), ("dent/0.png", "dent/1.png", "x/9.png"))
    train, test, masks = (tmp_path / "c" / below for below in ROOTS[layout])
    gone = [train / "1.png", test / "dent" / "0.png", masks / "dent" / "0.png", masks / "dent" / "1.png", masks / "x"]
    resolved = read(tmp_path, layout, exclude=list(map(str, gone)))
    assert [sample.path.name for sample in resolved.category.train] == ["2.png"]
    assert [(sample.path.name, sample.mask) for sample in resolved.category.test] == [("1.png", None)]
    assert set(resolved.excluded) == {*gone[:-1], masks / "x" / "9.png"}
    assert resolved.left_out == ()
    again = sources.resolve(resolved.settings, "c", tmp_path)  # as evaluate does
    assert again.category == resolved.category


@every_layout
def test_masks_of_good_parts_are_told_from_those_of_nobody(tmp_path, layout):
    place(tmp_path, layout, test=("good/0.png", "dent/0.png"), masks=("good/0.png", "dent/0.png"))
    assert [(group.why, len(group.paths)) for group in read(tmp_path, layout).left_out] == [(FOR_GOOD, 1)]


@pytest.mark.parametrize("layout", [layout for layout in ROOTS if layout != "folder"])
@pytest.mark.parametrize("name", ["masks", "GT", "Ground_Truth"])
def test_a_folder_of_masks_among_the_defects_is_refused(tmp_path, layout, name):
    place(tmp_path, layout, test=("dent/0.png", f"{name}/dent/0.png"))
    with pytest.raises(DataError, match=rf"{name} is named as a folder of masks is.* Move it to .*ground_truth"):
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
    if layout == "folder":  # whose masks may lie there, reached by another way, too
        (tmp_path / "c" / "masks").rmdir()
        (tmp_path / "c" / "masks").symlink_to(tmp_path / "c" / "abnormal")
        ((name, mask),) = ((s.path.name, s.mask.name) for s in read(tmp_path, layout).category.test)
        assert (name, mask) == ("0.png", "0_GT.png")
        return
    with pytest.raises(DataError, match=r"0_GT.png lies beside .*If it is, move it to .*ground_truth"):
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


def given(folder):
    return ("category=custom", f"category.name={folder.name}", f"data.root={folder.parent}")


def trained(folder, run, *more):
    """What metrics.json, run.json and report.html of a run on a category hold."""
    session = TrainingSession(composed(*FAST, *given(folder), f"run_dir={run}", *more))
    session.run()
    return *(json.loads((run / f"{name}.json").read_text()) for name in ("metrics", "run")), run / "report.html"


def test_an_unreadable_mask_is_named_before_training(faulty, tmp_path):
    with pytest.raises(DataError) as refused:
        TrainingSession(composed(*FAST, *given(faulty), f"run_dir={tmp_path / 'run'}"))
    assert "1 mask(s) can't be read" in str(refused.value)
    assert f"{faulty / 'ground_truth' / 'spot' / '0_mask.png'}: is no image: text ('no mask')" in str(refused.value)
    assert "data.on_corrupt=skip" in str(refused.value)


def test_what_was_left_out_lasts(faulty, tmp_path, caplog):
    metrics, run, report = trained(faulty, tmp_path / "run", "data.on_corrupt=skip")
    assert [path.rpartition("/")[2] for path in run["skipped"]] == ["0_mask.png"]
    assert {group["why"]: group["count"] for group in run["left_out"]} == {HIDDEN: 1, UNMATCHED: 1}
    assert len(run["findings"]["mask"]) == 2
    page = report.read_text()
    for words in ("1_mask.png is 60x84, but its image", "0_mask.png can't be read", "nobody_mask.png"):
        assert words in caplog.text
        assert any(words in note for note in metrics["notes"].values())
        assert words.replace("'", "&#39;") in page
    assert metrics["pixel"]["images"] == 5 + 7 - 2
    assert set(metrics["notes"]) == {"left_out", "mask", "pixel.aupimo"}


@pytest.fixture
def spoilt(tmp_path):
    """A clean category and the same with a fault of every kind, and the files that are at fault, by the finding."""
    clean, folder = (make_category(tmp_path / name) for name in ("clean", "spoilt"))
    good, test, masks = folder / "train" / "good", folder / "test", folder / "ground_truth" / "spot"
    strange = texture(np.random.default_rng(7))
    faults = {
        "left_out": [
            save(strange, good / ".Trash-1000" / "files" / "0.png"),
            save(strange, test / ".ipynb_checkpoints" / "x.png"),
            save(strange, good / "decided" / "heatmaps" / "0.png"),
        ],
        "unreadable": [good / "cut.png", test / "spot" / "text.png"],
        "leak": [good / "leaked.png"],
        "duplicate": [good / "copy.png"],
        "mask_unreadable": [masks / "0_mask.png"],
        "mask_unfit": [masks / "1_mask.png"],
        "mask_shared": [save(strange, test / "spot" / "2.jpg")],
        "mask_several": [masks / "3_mask.bmp"],
        "mask_as_image": [test / "scratch" / "0_mask.png"],
        "mask_unmatched": [masks / "nobody.png"],
    }
    (good / "decided" / "decisions.csv").touch()
    (good / "cut.png").write_bytes((good / "0.png").read_bytes()[:900])
    (test / "spot" / "text.png").write_text("no image")
    shutil.copy(test / "good" / "1.png", good / "leaked.png")
    shutil.copy(good / "3.png", good / "copy.png")
    (masks / "0_mask.png").write_text("no mask")
    save(np.zeros((84, 60), np.uint8), masks / "1_mask.png")
    shutil.copy(folder / "ground_truth" / "scratch" / "0_mask.png", test / "scratch" / "0_mask.png")
    for name in ("3_mask.bmp", "nobody.png"):
        save(np.zeros((60, 84), np.uint8), masks / name)
    for number in (0, 1):
        (clean / "ground_truth" / "spot" / f"{number}_mask.png").unlink()
    # Read as they are: a link that leads upwards, good parts and a mask under other customary names.
    (good / "up").symlink_to(folder)
    (test / "good").rename(test / "Good")
    (folder / "ground_truth" / "scratch" / "1_mask.png").rename(folder / "ground_truth" / "scratch" / "1_GT.png")
    return clean, folder, faults


def test_an_audit_names_every_fault_once_and_training_without_them_is_as_on_clean_data(spoilt, tmp_path):
    clean, folder, faults = spoilt
    ran = command("audit", *AUDITED, *given(folder), "output=audit", cwd=tmp_path)
    assert ran.code == 1, ran.out
    listed = tmp_path / "audit" / "audit.json"
    found = json.loads(listed.read_text())["findings"]
    for kind, files in faults.items():
        for file in files:
            assert [f["kind"] for f in found if str(file) in f["paths"]] == [kind], file
    assert set(faults) == {f["kind"] for f in found}
    with pytest.raises(DataError, match="It is not clear which masks belong"):
        TrainingSession(composed(*FAST, *given(folder), f"run_dir={tmp_path / 'refused'}"))

    ours, run, _ = trained(folder, tmp_path / "run", f"data.exclude={listed}")
    theirs, _, _ = trained(clean, tmp_path / "clean_run")
    for block in ("image", "pixel", "by_defect", "counts"):
        assert ours[block] == theirs[block], block
    assert ours["threshold"]["value"] == theirs["threshold"]["value"]
    assert "leak" not in ours["notes"]
    assert run["skipped"] == {}
    assert len(run["excluded"]) == 10 - 1  # a mask of nobody is in nobody's way, a leak and a copy count one each
