"""evaluate on other data than the run's: another category or layout, the same images elsewhere; and it says so."""

import json
import shutil

import pytest
from toy import command, composed, flat, make_category

from anomaly_lightning.errors import DataError
from anomaly_lightning.training.checkpoint import read_content
from anomaly_lightning.training.tested_data import what_to_test

FEW = ("bootstrap=0", "heatmaps=false")


@pytest.fixture(scope="module")
def folders(root, tmp_path_factory):
    """The images of the category in folders of one's own."""
    place, category = tmp_path_factory.mktemp("own") / "own", root / "widget"
    shutil.copytree(category / "train" / "good", place / "good")
    shutil.copytree(category / "test" / "good", place / "good_test")
    for defect in ("scratch", "spot"):
        shutil.copytree(category / "test" / defect, place / "bad" / defect)
    shutil.copytree(category / "ground_truth", place / "masks")
    return place


def of(place, *keys):
    names = {"normal": "good", "normal_test": "good_test", "abnormal": "bad", "masks": "masks"}
    return [f"data.{key}={place / names[key]}" for key in keys or names]


@pytest.fixture(scope="module")
def of_folders(widget, folders, tmp_path_factory):
    """Folder of a run of data=folder; its images are moved away after it."""
    run = tmp_path_factory.mktemp("run") / "run"
    given = [word for word in widget if not word.startswith(("category=", "data.root"))]
    more = ("data=folder", *of(folders), "bootstrap=0", "callbacks.panels=null", f"hydra.run.dir={run}")
    assert command("train", *given, *more, cwd=run.parent).code == 0
    return run


@pytest.fixture
def moved(of_folders, folders, tmp_path):
    there = folders.rename(tmp_path / "moved")
    yield there
    there.rename(folders)


def evaluated(checkpoint, folder, *words):
    ran = command("evaluate", f"checkpoint={checkpoint}", f"hydra.run.dir={folder}", *FEW, *words, cwd=folder.parent)
    assert ran.code == 0, ran.out
    metrics, told = (json.loads((folder / name).read_text()) for name in ("metrics.json", "evaluation.json"))
    return metrics, told, flat(ran.out)


def comparable(metrics):
    return {name: metrics[name] for name in ("image", "pixel", "by_defect", "threshold")}


def test_another_category_of_the_root(checkpoint, root, tmp_path):
    other = make_category(root, "other", seed=8, normals=4, test_good=3)
    try:
        metrics, told, out = evaluated(checkpoint, tmp_path / "out", "category=other")
    finally:
        shutil.rmtree(other)
    assert metrics["category"] == "other"
    assert metrics["counts"]["test_good"] == 3
    assert told["changes"] == {"category": "other"}
    assert told["data_of_the_run"] is False
    assert told["dataset_fingerprint"] != told["run"]["dataset_fingerprint"]
    assert "The fingerprint differs" in metrics["notes"]["data"]
    assert "category=other" in metrics["notes"]["data"]
    assert "The fingerprint differs" in out
    assert "fingerprint differs" in (tmp_path / "out" / "report.html").read_text()


def test_the_runs_own_data_is_said_to_be_that(checkpoint, run_folder, root, tmp_path):
    metrics, told, _ = evaluated(checkpoint, tmp_path / "out")
    assert comparable(metrics)["by_defect"] == json.loads((run_folder / "metrics.json").read_text())["by_defect"]
    assert (told["changes"], told["data_of_the_run"]) == ({}, True)
    assert "data" not in metrics["notes"]
    shutil.copytree(root, tmp_path / "root")
    metrics, told, _ = evaluated(checkpoint, tmp_path / "again", f"data.root={tmp_path}/root")
    assert told["data_of_the_run"] is True, "the same images elsewhere"
    assert told["changes"] == {"data.root": str(tmp_path / "root")}


def test_a_run_whose_images_were_changed_since_is_told(checkpoint, root, tmp_path):
    image, kept = root / "widget" / "test" / "good" / "0.png", tmp_path / "kept.png"
    image.rename(kept)
    try:
        metrics, told, _ = evaluated(checkpoint, tmp_path / "out")
    finally:
        kept.rename(image)
    assert told["data_of_the_run"] is False
    assert "were changed since" in metrics["notes"]["data"]


def test_folders_that_moved(of_folders, moved, tmp_path):
    best = of_folders / "checkpoints" / "best.ckpt"
    ran = command("evaluate", f"checkpoint={best}", f"hydra.run.dir={tmp_path}/none", *FEW, cwd=tmp_path)
    assert ran.code == 1
    assert "is not a folder" in flat(ran.out)
    metrics, told, _ = evaluated(best, tmp_path / "out", *of(moved))
    trained = json.loads((of_folders / "metrics.json").read_text())
    assert metrics["by_defect"] == trained["by_defect"]
    assert metrics["image"]["confusion"] == trained["image"]["confusion"]
    assert told["data_of_the_run"] is True


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_tested_on_is_enough(of_folders, moved, tmp_path, whole):
    """No normals that a run would train on are needed, with data=folder or with single places of the run's."""
    words = of(moved, "normal_test", "abnormal", "masks")
    given = ["data=folder", *words] if whole else words
    metrics, told, _ = evaluated(of_folders / "checkpoints" / "best.ckpt", tmp_path / "out", *given)
    trained = json.loads((of_folders / "metrics.json").read_text())
    assert metrics["image"]["confusion"] == trained["image"]["confusion"]
    assert metrics["counts"] == trained["counts"] | {"train": 0, "validation": 0}
    assert told["data_of_the_run"] is False


@pytest.mark.parametrize("normals", [1, 3])
@pytest.mark.parametrize("single", ["normal", "normal_test"])
def test_few_normals_are_enough_where_nothing_is_trained_on_them(of_folders, moved, tmp_path, normals, single):
    """Neither to train on nor, with no others, to test on."""
    for number in range(normals):
        (tmp_path / "few").mkdir(exist_ok=True)
        shutil.copy(moved / "good" / f"{number}.png", tmp_path / "few")
    words = ["data=folder", f"data.{single}={tmp_path}/few", *of(moved, "abnormal", "masks")]
    metrics, _, _ = evaluated(of_folders / "checkpoints" / "best.ckpt", tmp_path / "out", *words)
    tested = normals if single == "normal_test" else 0
    assert metrics["counts"] == {"train": 0, "validation": 0, "test_good": tested, "test_defect": 7}
    assert metrics["image"]["recall"] is not None


def test_another_layout(checkpoint, moved, tmp_path):
    metrics, told, _ = evaluated(checkpoint, tmp_path / "out", "data=folder", *of(moved), "category=2024_06")
    assert metrics["category"] == "2024_06"
    assert told["data_of_the_run"] is True, "the same images by their contents and roles"
    assert told["places"]["layout"] == "folder"


@pytest.fixture
def known(of_folders, checkpoint):
    return {"folder": read_content(of_folders / "checkpoints" / "best.ckpt")[1], "mvnet": read_content(checkpoint)[1]}


def settings(card, *words):
    return what_to_test(composed("checkpoint=x", *words, config="evaluate"), card).settings


def test_single_places_are_exchanged_and_data_starts_from_nothing(known, folders):
    kept = settings(known["folder"], "data.abnormal=/new")
    assert (kept["abnormal"], kept["masks"], kept["normal"]) == (
        "/new",
        str(folders / "masks"),
        [str(folders / "good")],
    )
    anew = settings(known["folder"], "data.layout=folder", "data.normal=[/a]", "data.abnormal=/new")
    assert (anew["abnormal"], anew["masks"], anew["normal"]) == ("/new", None, ["/a"])
    assert settings(known["mvnet"], "data.abnormal=/new", "data.normal=/a")["layout"] == "folder"
    assert settings(known["folder"], "data.root=/r")["layout"] == "mvnet"
    assert settings(known["folder"], "data.manifest=/m.csv")["layout"] == "manifest"
    assert settings(known["mvnet"], "data.layout=synthetic")["generate"]["train"] > 0


def test_what_was_left_out_is_left_out_where_it_lies_by_now(known):
    card = known["folder"]
    good = card.data.places["normal"][0]
    data = card.data.to_dict() | {"places": {**card.data.places, "exclude": [f"{good}/1.png", "/elsewhere/2.png"]}}
    changed = card.replace(data=type(card.data)(**data))
    assert settings(changed, "data.normal=[/new]")["exclude"] == ["/new/1.png", "/elsewhere/2.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.layout=foldr",), "data=foldr: expected one of btad, folder, manifest, mvnet"),
        (
            ("data.layout=mvnet", "data.abnormal=/a"),
            "data.abnormal=/a does not go with data=mvnet, which takes",
        ),
        (("data.layout=synthetic", "data.root=/a"), "which takes no place"),
        (("data.root=/a", "data.normal=/b"), "data.normal=/b does not go with data=mvnet"),
    ],
)
def test_places_that_contradict_each_other_are_named(known, words, said):
    with pytest.raises(DataError, match=said):
        settings(known["folder"], *words)
