"""What makes two runs the same one, and which finished runs a sweep takes over."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from anomaly_lightning.data.datamodule import MVNetDataModule
from anomaly_lightning.data.samples import Category, Sample
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.runtime.transform import ImageTransform
from anomaly_lightning.training import reuse
from anomaly_lightning.training.compose import plain

BACKBONE = {"name": "tiny", "library": "tiny", "layers": ["layer2"], "weights": "random", "pretrained": None}


def identity(*overrides, backbone=None, fingerprint="data", weights="0" * 64, versions=None, run_dir="/here/0"):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", [f"run_dir={run_dir}", "reuse=true", "backbone=tiny", *overrides])
    return reuse.identity(plain(cfg), backbone or BACKBONE, fingerprint, weights, versions or {"torch": "2.14"})


@pytest.fixture(scope="module")
def base():
    return identity()


@pytest.mark.parametrize(
    "override",
    [
        "category=bottle", "seed=1", "test=false", "bootstrap=10", "features.grid=16", "features.neighbourhood=5",
        "features.precision=bf16",
        "model=pca", "model.network.latent=16", "optimizer.lr=0.01", "scoring.sigma=2", "scoring.reduction=mean",
        "threshold=quantile", "threshold.k=2", "pixel_threshold.q=0.9", "trainer.max_epochs=3",
        "trainer.precision=bf16-mixed", "trainer.devices=2", "data.split=pooled_80_20", "data.validation_share=0.3",
        "data.image_size=128", "data.resize=letterbox", "data.batch_size=16", "data.on_corrupt=skip",
        "cache.dtype=float32", "cache.mode=off", "callbacks.heatmaps=null", "callbacks.best.save_top_k=3",
        "ckpt=elsewhere/last.ckpt",
    ],
)  # fmt: skip
def test_what_decides_the_outcome_is_in_the_identity(base, override):
    assert identity(override) != base


@pytest.mark.parametrize(
    "override",
    [
        "data.workers=7", "data.root=/elsewhere", "cache.dir=/elsewhere", "cache.max_gb=1", "cache.mode=memory",
        "reuse=false", "logger.history=null",
    ],
)  # fmt: skip
def test_places_and_onlookers_are_not_in_the_identity(base, override):
    assert identity(override) == base


def test_the_run_folder_is_not_in_the_identity_though_the_callbacks_name_it(base):
    assert identity(run_dir="/there/17") == base


def test_data_weights_backbone_and_versions_are_in_the_identity(base):
    others = [
        identity(fingerprint="other"),
        identity(weights="1" * 64),
        identity(backbone={**BACKBONE, "layers": ["layer3"]}),
        identity(versions={"torch": "2.15"}),
    ]
    assert len({base, *others}) == 5


def test_the_same_weights_by_another_name_or_path_are_the_same(base):
    assert identity(backbone={**BACKBONE, "weights": "/my/file.pt", "pretrained": "IMAGENET1K_V1"}) == base
    assert identity("backbone=auto") == base  # resolved to the same backbone


def test_the_code_version_follows_every_source_file_and_its_name(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    seen = [reuse.code_version(tmp_path)]
    (tmp_path / "a.py").write_text("x = 2\n")
    seen.append(reuse.code_version(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    seen.append(reuse.code_version(tmp_path))
    assert len(set(seen)) == 3
    (tmp_path / "notes.txt").write_text("not code")
    assert reuse.code_version(tmp_path) == seen[-1]


def test_the_fingerprint_follows_images_masks_and_roles(tmp_path):
    def fingerprint(defect="dent"):
        train = tuple(Sample(tmp_path / f"{index}.png") for index in range(5))
        test = (Sample(tmp_path / "5.png"), Sample(tmp_path / "6.png", defect, tmp_path / "mask.png"))
        category = Category(name="widget", train=train, test=test)
        return MVNetDataModule(category, ImageTransform((8, 6), (0.5,) * 3, (0.5,) * 3, "stretch")).fingerprint

    for index in range(7):
        Image.new("RGB", (6, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    Image.new("L", (6, 8), 255).save(tmp_path / "mask.png")
    before = fingerprint()
    assert fingerprint() == before
    assert fingerprint("scratch") != before
    Image.new("L", (6, 8), 0).save(tmp_path / "mask.png")
    with_other_mask = fingerprint()
    assert with_other_mask != before
    Image.new("RGB", (6, 8), (200, 0, 0)).save(tmp_path / "3.png")
    assert fingerprint() != with_other_mask


def make_run(folder: Path, wanted="me", status="finished", loss=0.5):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"identity": wanted, "status": status, "validation_loss": loss}))
    (folder / "metrics.json").write_text(json.dumps({"category": "leather"}))
    return folder


def test_only_a_finished_whole_run_of_the_same_content_is_found(tmp_path):
    make_run(tmp_path / "sweep1" / "0", wanted="another")
    make_run(tmp_path / "sweep1" / "1", status="training")
    failed = make_run(tmp_path / "sweep1" / "2")
    (failed / "error.json").write_text("{}")
    (make_run(tmp_path / "sweep1" / "3") / "metrics.json").unlink()
    (make_run(tmp_path / "sweep1" / "4") / "run.json").write_text('{"identity": "me", "sta')
    assert reuse.find_finished(tmp_path, "me") is None
    good = make_run(tmp_path / "sweep1" / "5")
    assert reuse.find_finished(tmp_path, "me") == good
    later = make_run(tmp_path / "sweep2" / "0")
    assert reuse.find_finished(tmp_path, "me") == later


def test_a_third_start_points_to_the_run_itself_and_survives_a_move(tmp_path):
    original = make_run(tmp_path / "all" / "first" / "0", loss=0.25)
    second, third = tmp_path / "all" / "second" / "0", tmp_path / "all" / "third" / "0"
    for folder in (second, third):
        folder.mkdir(parents=True)
        found = reuse.find_finished(tmp_path / "all", "me")
        assert found == original  # never the note of a run that was itself taken over
        assert reuse.take_over(found, folder) == 0.25
    shutil.move(tmp_path / "all", tmp_path / "moved")
    assert reuse.standing_for(tmp_path / "moved" / "third" / "0") == tmp_path / "moved" / "first" / "0"


def test_once_the_run_that_was_taken_over_is_deleted_it_is_run_again(tmp_path):
    original = make_run(tmp_path / "first" / "0")
    (tmp_path / "second" / "0").mkdir(parents=True)
    reuse.take_over(original, tmp_path / "second" / "0")
    shutil.rmtree(original)
    assert reuse.find_finished(tmp_path, "me") is None


def test_a_run_found_in_its_own_folder_stands_for_itself(tmp_path):
    folder = make_run(tmp_path / "fixed" / "0", loss=None)
    assert reuse.take_over(folder, folder) is None
    assert reuse.standing_for(folder) == folder
    assert not (folder / reuse.REUSED_FILE).exists()


def test_what_an_earlier_run_said_in_this_folder_is_forgotten(tmp_path):
    folder = make_run(tmp_path / "fixed" / "0")
    (folder / "predictions.csv").write_text("path\n")
    reuse.forget(folder)
    assert list(folder.iterdir()) == []
    reuse.forget(folder)
