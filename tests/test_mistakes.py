"""A user's mistakes: one paragraph that says what is allowed or what is there, status 1, no traceback."""

import json
import shutil

import pytest
from PIL import Image
from toy import BARE, SMALL, command, composed, flat, make_category

from anomaly_lightning.detectors import pca
from anomaly_lightning.errors import CalibrationError, DataError
from anomaly_lightning.training.compose import build_backbone, build_datamodule
from anomaly_lightning.training.session import TrainingSession


def failed(ran):
    """The output of a command that had to fail, on one line."""
    assert ran.code not in (0, None), ran.out
    assert "Traceback" not in ran.out
    assert 'File "' not in ran.out
    return flat(ran.out)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("category=lether", ["category", "lether", "leather", "zipper", "category=custom category.name=lether"]),
        ("backbone=resnet51", ["backbone", "resnet51", "resnet50", "tiny"]),
        ("model=autoencode", ["model", "autoencode", "autoencoder"]),
        ("threshold=mean", ["threshold", "mean", "mean_std", "quantile"]),
        ("data.batchsize=8", ["batchsize"]),
        ("trainer.max_epoch=8", ["max_epoch"]),
        ("modle=autoencoder", ["modle"]),
        ("model.witdh=3", ["witdh"]),
    ],
)
def test_a_misspelt_choice_or_key_is_named_with_what_is_allowed(widget, tmp_path, argument, said):
    text = failed(command("train", *widget, argument, cwd=tmp_path))
    for word in said:
        assert word in text


@pytest.mark.parametrize(("name", "advised"), [("audit", True), ("benchmark", True), ("predict", False)])
def test_a_category_of_ones_own_is_advised_where_one_is_chosen(tmp_path, name, advised):
    text = failed(command(name, "category=leather,plates", cwd=tmp_path))
    assert ("category=custom category.name=plates" in text) is advised


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("data.split=random", "data.split=random: expected one of official, pooled_80_20"),
        ("scoring.reduction=median", "scoring.reduction=median: expected one of max, top, mean"),
        ("model.network.stages=0", "model.network.width, latent and stages must be 1 or more"),
        ("model.memory=50", "model.memory=50: expected a block with a _target_, or null"),
        ("data.on_corrupt=ignore", "data.on_corrupt=ignore: expected one of error, skip"),
        ("cache.mode=ram", "cache.mode=ram: expected one of disk, memory, off"),
        ("cache.dtype=float8", "cache.dtype to be one of float16, bfloat16, float32"),
        ("features.neighbourhood=2", "features.neighbourhood=2"),
        ("features.grid=0", "features.grid=0: expected null, one number or [height, width], of 1 or more"),
        ("features.grid=[4,3,2]", "features.grid=[4, 3, 2]: expected null, one number or [height, width]"),
        ("features.grid=[4]", "features.grid=[4]: expected null, one number or [height, width]"),
        ("seed=-1", "seed=-1: expected a whole number from 0 to 4294967295"),
        ("bootstrap=-1", "bootstrap=-1: expected a whole number of 0 or more"),
        ("data.batch_size=1.5", "data.batch_size=1.5: expected a whole number of 1 or more"),
        ("data.workers=-1", "data.workers=-1: expected a whole number of 0 or more"),
        ("optimizer.lr=-1", "optimizer.lr=-1: expected a number of 0 or more"),
        ("optimizer.lr=abc", "optimizer.lr=abc: expected a number of 0 or more"),
        ("scoring.sigma=abc", "scoring.sigma=abc: expected a number of 0 or more"),
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: expected a whole number of -1 or more"),
        ("data.shots=1.5", "data.shots=1.5: expected null, or 1 to"),
        (("localiser=unet", "localiser.steps=-1"), "localiser.steps=-1: expected a whole number of 1 or more"),
        (("localiser=unet", "localiser.batch_size=0"), "localiser.batch_size=0: expected a whole number of 1 or more"),
        ("features.precision=16", "features.precision=16: expected one of 32, bf16"),
        ("data.validation_share=2", "data.validation_share=2"),
        ("data.batch_size=0", "data.batch_size=0"),
        ("threshold=conformal", "more to go"),
        ("backbone.layers=[layer7]", "backbone.layers=['layer7']: tiny consists of layer1, layer2, layer3"),
        ("pixel_threshold=robust", "pixel_threshold=robust: expected a block with a _target_"),
        ("threshold@pixel_threshold=f1", "expected a rule that needs no defects"),
        ("pixel_threshold.review_budget=0.1", "pixel_threshold.review_budget=0.1: expected null"),
        # 8 x 6 positions are pooled to 4 x 3, then halved three times: one; the last batch holds one of 12 images
        (("model.network.stages=3", "data.batch_size=11"), "TrainingError: A batch of a single image"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_as_it_was_typed(widget, tmp_path, argument, said):
    given = (argument,) if isinstance(argument, str) else argument
    assert said in failed(command("train", *widget, *given, cwd=tmp_path))


def test_a_root_that_does_not_exist_is_named_and_never_replaced(widget, tmp_path):
    text = failed(command("train", *widget, f"data.root={tmp_path}/nowhere", cwd=tmp_path))
    assert "DataError: data.root=" in text
    assert f"{tmp_path}/nowhere" in text


def test_a_category_that_is_not_in_the_root_names_the_folder_and_those_there(widget, root, tmp_path):
    given = [item for item in widget if not item.startswith("category")]
    text = failed(command("train", *given, "category=bottle", cwd=tmp_path))
    assert f"{root}/bottle/train/good" in text.replace(" /", "/")
    assert "Categories in" in text
    assert "widget" in text


def test_a_custom_category_needs_a_name(widget, tmp_path):
    given = [item for item in widget if not item.startswith("category.name")]
    assert "category.name" in failed(command("train", *given, cwd=tmp_path))


def test_a_root_contradicts_generated_images(widget, tmp_path):
    assert "contradicts data=synthetic" in failed(command("train", *widget, "data=synthetic", cwd=tmp_path))


def test_the_full_error_is_there_for_who_asks(widget, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="nowhere"):
        command("train", *widget, f"data.root={tmp_path}/nowhere", cwd=tmp_path)


@pytest.fixture
def broken(tmp_path):
    """A root whose category has three unreadable images: truncated, text, empty."""
    folder = make_category(tmp_path / "images")
    whole = (folder / "train" / "good" / "1.png").read_bytes()
    (folder / "train" / "good" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "good" / "2.png").write_text("this is no image")
    (folder / "test" / "spot" / "0.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("mode", ["disk", "off"])
def test_unreadable_images_are_named_all_at_once_before_training(widget, broken, tmp_path, mode):
    ran = command("train", *widget, f"data.root={broken.parent}", f"cache.mode={mode}", cwd=tmp_path)
    text = failed(ran)
    assert "3 of 27 images can't be read" in text
    for name in ("train/good/1.png", "train/good/2.png", "test/spot/0.png"):
        assert name in text
    assert "data.on_corrupt=skip" in text
    assert not list(tmp_path.glob("outputs/**/*.ckpt"))


@pytest.mark.parametrize(("count", "what"), [(3, "1 of 2 train"), (2, "1 of 2 validation")])
def test_too_few_images_that_can_be_read_are_refused_with_the_true_number(tmp_path, count, what):
    """Of four normals, which two are held out: one of either pair is spoilt."""
    folder = make_category(tmp_path, normals=4)
    given = composed(*SMALL, "category=custom", "category.name=widget", f"data.root={tmp_path}", "cache.mode=off")
    source, _ = build_datamodule(given, build_backbone(given))
    spoilt = (source.splits.train if "train" in what else source.splits.validation)[0].path
    spoilt.write_bytes(b"")
    source.on_corrupt = "skip"
    with pytest.raises(DataError, match=rf"{what} images of widget can be read; expected at least 2.*{spoilt.name}"):
        source.setup()
    assert folder.is_dir()


def test_what_the_calibration_would_refuse_is_refused_before_the_fit(widget, tmp_path, monkeypatch):
    defects = tmp_path / "defects"
    for name in ("spot/1.png", "good/2.png"):
        (defects / name).parent.mkdir(parents=True)
        (defects / name).write_bytes(b"no image")
    monkeypatch.setattr(pca.PCA, "prepare", lambda *_: pytest.fail("it was fitted"))
    fast = (*widget, "model=pca", f"run_dir={tmp_path / 'run'}", *BARE)
    for more, said in (
        (["threshold=conformal"], "At least 99 scores of normals .* 3 came"),
        (
            ["threshold=f1", f"labelled_defects={defects}"],
            r"1 image\(s\) can't be read:\n.*spot/1.png",
        ),
        (["threshold=f1", f"labelled_defects={defects / 'good'}x"], "is missing or holds no image of a defect"),
    ):
        given = [override for override in fast if not override.startswith("model.network")]
        with pytest.raises(CalibrationError, match=said):
            TrainingSession(composed(*given, *more)).run()


def test_unreadable_images_can_be_left_out_and_are_listed(widget, broken, tmp_path):
    given = (f"data.root={broken.parent}", "data.on_corrupt=skip", "bootstrap=0")
    assert command("train", *widget, *given, cwd=tmp_path).code == 0
    report = json.loads(next(tmp_path.glob("outputs/train/widget/*/*/run.json")).read_text())
    assert sorted(path[-16:] for path in report["skipped"]) == [
        "get/test/spot/0.png"[-16:],
        *sorted(f"widget/train/good/{i}.png"[-16:] for i in (1, 2)),
    ]
    assert all(report["skipped"].values())
    counts = report["counts"]
    assert (counts["train"] + counts["validation"], counts["test_defect"]) == (13, 6)


class TestEvaluate:
    def test_without_a_checkpoint(self, tmp_path):
        assert "checkpoint" in failed(command("evaluate", cwd=tmp_path))

    def test_with_a_checkpoint_that_is_not_there(self, tmp_path):
        text = failed(command("evaluate", "checkpoint=nowhere/best.ckpt", cwd=tmp_path))
        assert "CheckpointError: There is no checkpoint nowhere/best.ckpt" in text

    def test_before_the_calibration(self, run_folder, tmp_path):
        text = failed(command("evaluate", f"checkpoint={run_folder}/checkpoints/last.ckpt", cwd=tmp_path))
        assert "NotCalibratedError" in text

    def test_without_test_images(self, checkpoint, tmp_path):
        shutil.rmtree(make_category(tmp_path / "images") / "test")
        given = (f"checkpoint={checkpoint}", f"data.root={tmp_path}/images")
        assert "holds no test images" in failed(command("evaluate", *given, cwd=tmp_path))

    def test_on_good_images_alone_the_undefined_is_null_with_a_reason(self, checkpoint, tmp_path):
        folder = make_category(tmp_path / "images")
        for defect in ("scratch", "spot"):
            shutil.rmtree(folder / "test" / defect)
        given = (f"checkpoint={checkpoint}", f"data.root={tmp_path}/images", "bootstrap=0")
        ran = command("evaluate", *given, cwd=tmp_path)
        assert ran.code == 0, ran.out
        metrics = json.loads(next(tmp_path.glob("outputs/evaluate/*/metrics.json")).read_text())
        assert metrics["image"]["auroc"] is None
        assert metrics["notes"]["image.auroc"]
        assert metrics["image"]["false_alarm_rate"] is not None

    def test_a_mask_of_another_size_is_no_crash(self, checkpoint, tmp_path):
        folder = make_category(tmp_path / "images")
        Image.new("L", (10, 20), 255).save(folder / "ground_truth" / "spot" / "0_mask.png")
        ran = command("evaluate", f"checkpoint={checkpoint}", f"data.root={tmp_path}/images", cwd=tmp_path)
        assert "Traceback" not in ran.out
