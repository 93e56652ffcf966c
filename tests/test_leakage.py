"""No test file can move the threshold, the chosen weights or the validation loss by a single bit."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from toy import BARE, composed, make_category, save, texture

from anomaly_lightning.training.session import TrainingSession


@pytest.fixture(scope="module")
def run(tmp_path_factory, widget):
    """Trains on a data.root; gives all that may not depend on the test files."""

    def once(root, policy):
        folder = tmp_path_factory.mktemp("run")
        settings = (f"data.root={root}", f"data.split={policy}", f"run_dir={folder}", "bootstrap=0", "reuse=false")
        session = TrainingSession(composed(*widget, *BARE, *settings))
        loss = session.run()
        best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
        return loss, best["state_dict"], best["card"]["thresholds"]["score"], session.source.splits.counts()

    return once


@pytest.fixture(scope="module")
def official(run, root):
    return run(root, "official")


@pytest.fixture
def copied(tmp_path):
    make_category(tmp_path)  # the same images as in the session's root
    return tmp_path


def permute(folder):
    images = sorted((folder / "test").rglob("*.png"))
    contents = [path.read_bytes() for path in images]
    for path, content in zip(images, contents[3:] + contents[:3], strict=True):
        path.write_bytes(content)


def relabel(folder):
    (folder / "test" / "good").rename(folder / "test" / "was_good")
    (folder / "test" / "spot").rename(folder / "test" / "good")


def rename(folder):
    for path in sorted((folder / "test").rglob("*.png")):
        path.rename(path.with_name(f"z{path.stem}_{path.parent.name}.webp.png"))


def repaint(folder):
    for path in (folder / "test").rglob("*.png"):
        Image.fromarray(np.full((33, 71, 3), 255, np.uint8)).save(path)


def multiply(folder):
    rng = np.random.default_rng(8)
    for number in range(40):
        save(texture(rng), folder / "test" / "other" / f"{number}.png")


def delete_defects(folder):
    shutil.rmtree(folder / "test" / "spot")
    shutil.rmtree(folder / "ground_truth")


def delete(folder):
    shutil.rmtree(folder / "test")


def assert_the_same(one, two):
    assert one[0] == two[0]
    assert one[2] == two[2]
    assert set(one[1]) == set(two[1])
    for name, value in one[1].items():
        assert torch.equal(value, two[1][name]), name


@pytest.mark.parametrize("change", [permute, relabel, rename, repaint, multiply, delete_defects, delete])
def test_official_runs_do_not_see_the_test_files(run, official, copied, change):
    change(copied / "widget")
    assert_the_same(run(copied, "official"), official)


def test_a_training_image_does_matter(run, official, copied):
    """What the tests above compare is able to differ."""
    path = copied / "widget" / "train" / "good" / "3.png"
    save(np.array(Image.open(path))[::-1], path)
    other = run(copied, "official")
    assert other[0] != official[0]
    assert any(not torch.equal(value, official[1][name]) for name, value in other[1].items())


def test_pooled_runs_do_not_see_the_defects(run, root, copied):
    first = run(root, "pooled_80_20")
    for path in (copied / "widget" / "test" / "scratch").glob("*.png"):
        Image.fromarray(np.zeros((20, 50), np.uint8)).save(path)
    shutil.rmtree(copied / "widget" / "test" / "spot")
    multiply(copied / "widget")
    second = run(copied, "pooled_80_20")
    assert second[3]["test_defect"] == 43
    assert_the_same(first, second)
