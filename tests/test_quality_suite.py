"""The quality suite: rows that are resumed, paired differences, and rules compared on the same scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy import stats
from toy import command

from anomaly_lightning.bench.quality import decisions, more_normals, paired, reach, row, sources, suite
from anomaly_lightning.calibration import Conformal, Highest, Quantile
from anomaly_lightning.calibration.realised import interval
from anomaly_lightning.configs import composed
from anomaly_lightning.errors import UserError

QUICK = [
    "backbone=tiny", "trainer.max_epochs=1", "data.generate.train=10", "data.generate.test_good=3",
    "data.generate.defects_each=1", "data.image_size=64", "features.grid=8", "trainer.accelerator=cpu",
]  # fmt: skip

WHOLE_BANK = [
    "model.bank=null", "model.ratio=1.0", "model.pool=null", "model.projection=null", "model.neighbours=1",
]  # fmt: skip


def rows_of(values: dict[tuple[str, int], float | None], experiment: str = "a") -> list[dict[str, object]]:
    return [
        {"category": category, "seed": seed, "experiment": experiment, "metrics": {"auroc": value}}
        for (category, seed), value in values.items()
    ]


def test_differences_are_means_over_seeds_then_over_categories() -> None:
    old = rows_of({("x", 0): 0.5, ("x", 1): 0.6, ("y", 0): 0.7, ("z", 0): 0.1})
    new = rows_of({("x", 0): 0.7, ("x", 1): 0.6, ("y", 0): 0.6, ("z", 0): None, ("w", 0): 1.0})
    found = paired.compare(new, old, "auroc")
    assert found is not None
    assert found.by_category == pytest.approx({"x": 0.1, "y": -0.1})
    assert found.without == pytest.approx({"x": -0.1, "y": 0.1})
    assert (found.pairs, found.mean) == (3, pytest.approx(0))
    assert paired.compare(new, rows_of({("q", 0): 1.0}), "auroc") is None


@pytest.mark.parametrize("count", [3, 8, 14])
def test_signs_are_those_of_scipys_permutation_test(count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 1, count)
    wanted = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert paired.sign_flip(values) == pytest.approx(wanted.pvalue)


def test_signs_of_many_categories_are_drawn() -> None:
    assert paired.sign_flip(np.full(30, 0.1)) < 1e-3
    assert paired.sign_flip(np.resize([0.1, -0.1], 30)) == 1.0


def config(tmp_path: Path, **changes: object) -> object:
    quality = {
        "root": None, "categories": [], "generated": ["tile"], "experiments": ["quality_pca", "quality_padim"],
        "seeds": [0, 1], "own_splits": False, "overrides": [], "folds": 0, "changed": False,
        "result": str(tmp_path / "rows.json"), **changes,
    }  # fmt: skip
    return OmegaConf.create({"quality": quality, "cache": {"dir": str(tmp_path)}})


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def fake(cfg, folds, changed):
        ran.append((cfg.model._target_.rpartition(".")[2], cfg.seed))
        if len(ran) == 3:
            raise UserError("one row fails")
        metrics = {"auroc": cfg.seed / 2, "pixel_aupro_256": None, "balanced_accuracy": 0.5}
        return {"metrics": metrics, "scores": {}}

    monkeypatch.setattr(row, "run", fake)
    found = suite.run_suite(config(tmp_path))
    assert ran == [("PCA", 0), ("PCA", 1), ("PaDiM", 0), ("PaDiM", 1)]
    assert [(one["experiment"], one["seed"]) for one in found] == [
        ("quality_pca", 0), ("quality_pca", 1), ("quality_padim", 1)
    ]  # fmt: skip
    assert len(suite.run_suite(config(tmp_path))) == 4
    assert ran[4:] == [("PaDiM", 0)], "the row that had failed, and no other"
    assert len(suite.run_suite(config(tmp_path, experiments=["quality_padim"]))) == 2
    with pytest.raises(UserError, match=r"quality\.overrides"):
        suite.run_suite(config(tmp_path, overrides=["seed=3"]))


def test_cross_fitting_scores_normals_that_were_not_fitted_on(tmp_path: Path) -> None:
    whole_bank = [
        "model.bank=null",
        "model.ratio=1.0",
        "model.pool=null",
        "model.projection=null",
        "model.neighbours=1",
    ]
    key = row.Key("tile", 0, "quality_patchcore", True)
    more = [*QUICK, *whole_bank, "backbone.layers=[layer2,layer3]", f"run_dir={tmp_path}", f"cache.dir={tmp_path}"]
    cfg = OmegaConf.create(composed("train", key.overrides(None, more)))
    found = row.run(cfg, folds=4, changed=True)["scores"]
    assert [len(fold["train"]) for fold in found["folds"]] == [2, 2, 2, 2]
    assert min(score for fold in found["folds"] for score in fold["train"]) > 1e-3, "known patches have distance 0"
    for fold in found["folds"]:
        assert np.all(np.array(fold["normals"]) >= np.array(found["normals"]) - 1e-5), "fewer patches, farther away"
        assert (len(fold["good"]), len(fold["defective"])) == (3, len(found["defective"]))
    assert set(found["changed"]) == {"right", "down", "brighter", "darker"}
    assert all(len(scores) == len(found["normals"]) == 2 for scores in found["changed"].values())
    assert found["changed"]["right"] != found["normals"]


def test_a_moved_image_repeats_its_edge() -> None:
    pixels = np.arange(4 * 200 * 3, dtype=np.uint8).reshape(4, 200, 3)
    right = np.asarray(more_normals.CHANGES["right"](Image.fromarray(pixels)))
    down = np.asarray(more_normals.CHANGES["down"](Image.fromarray(pixels)))
    assert (right == np.concatenate((pixels[:, [0, 0]], pixels[:, :-2]), axis=1)).all()
    assert (down == np.concatenate((pixels[:1], pixels[:-1]))).all()


def test_what_makes_no_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody"):
        suite.run_suite(config(tmp_path, experiments=["nobody"]))
    with pytest.raises(UserError, match=r"quality\.root"):
        suite.run_suite(config(tmp_path, categories=["cookie"]))
    (tmp_path / "rows.json").write_text("{}")
    with pytest.raises(UserError, match="result file"):
        suite.run_suite(config(tmp_path))


def test_a_rule_is_judged_by_the_test_scores() -> None:
    scores = {"normals": list(range(1, 21)), "good": [5, 10, 25, 30], "defective": [15, 40, 50]}
    found = decisions.outcome(Quantile(q=1.0), scores)
    assert found is not None
    assert (found.alarms, found.good, found.recall) == (2, 4, pytest.approx(2 / 3))
    assert found.balanced == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.best == pytest.approx((2 / 3 + 1) / 2)
    assert found.promised == pytest.approx(1 / 21)
    assert found.holds is False, "2 of 4 is more than 1 in 21 explains"
    assert decisions.outcome(Conformal(alpha=0.01), scores) is None, "too few normals for this rule"
    assert decisions.outcome(Highest(), {**scores, "defective": []}) is None
    assert interval(2, 4) == pytest.approx((0.0676, 0.9324), abs=1e-4)


def test_promises_stand_beside_what_was_realised(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"normals": list(range(1, 21)), "good": [5, 10, 25, 30], "defective": [15, 40, 50]}
    decisions.show(
        [{"category": "cookie", "seed": 0, "experiment": "a", "scores": scores}],
        {"last": Quantile(q=1.0), "strict": Conformal(alpha=0.01)},
    )
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("| cookie"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "cookie", "0", "20", "4", "50% (5%)*", "refused"
    ]  # fmt: skip


FOLDED = {
    "normals": [2.0, 4.0], "good": [1.0, 5.0], "defective": [9.0, 3.0],
    "folds": [
        {"train": [2.0, 8.0], "normals": [4.0, 8.0], "good": [2.0, 10.0], "defective": [18.0, 6.0]},
        {"train": [1.0, 3.0], "normals": [1.0, 2.0], "good": [0.5, 2.5], "defective": [4.0, 1.5]},
    ],
}  # fmt: skip


def test_folds_are_brought_to_one_scale() -> None:
    assert sources.cross_fitted(FOLDED) == pytest.approx(np.array([2, 4, 1, 4, 2, 6]))  # one halved, one doubled
    assert sources.plain_folds(FOLDED) == pytest.approx(np.array([2, 4, 2, 8, 1, 3]))
    assert sources.changed({**FOLDED, "changed": {"darker": [3.0, 5.0]}}) == pytest.approx(np.array([2, 4, 3, 5]))
    assert sources.cross_fitted({"normals": [1.0]}) is sources.changed({"normals": [1.0]}) is None


def test_cv_plus_compares_within_each_fold() -> None:
    # Normals at least as high: of good 1 + 0 + 1 and 0 + 1, of defective 0 and 1 + 1, and 1 for the image itself, of 5.
    found = decisions.cv_plus(FOLDED, alpha=0.2)
    assert found is not None
    assert (found.alarms, found.recall, found.promised) == (0, 0.5, 0.2)
    more = decisions.cv_plus(FOLDED, alpha=0.4)
    assert more is not None
    assert (more.alarms, more.recall) == (1, 0.5)
    assert decisions.cv_plus({**FOLDED, "folds": []}) is None


def test_what_could_be_reached_is_known_from_the_test_set() -> None:
    good, defective = np.array([1.0, 2.0, 3.0, 6.0]), np.array([4.0, 5.0, 7.0, 8.0])
    assert reach.best(good, defective) == (0.875, 3.0), "all defects found, one of four good ones called"
    assert reach.own_quantile(good, defective, 0.0) == pytest.approx(0.875 - 0.75)
    assert reach.own_quantile(good, defective, 0.25) == 0
    draw = np.random.default_rng(0)
    gap, alarms = reach.half(Highest(k=1e9), draw.normal(size=40), draw.normal(9, 1, 50), halves=400)
    assert alarms == pytest.approx(1 / 21, abs=0.01), "of 21 alike, the new one is the highest"
    assert gap == pytest.approx(alarms / 2, abs=1e-6)


def test_distances_are_shown_with_their_cause(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"normals": [1.0, 2.0, 3.0, 4.0], "good": [1.0, 5.0, 6.0, 2.0], "defective": [8.0, 9.0]}
    reach.show([{"category": "cookie", "seed": 0, "experiment": "a", "scores": scores}])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| cookie"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:7] == ["cookie", "0", "4", "1.000", "0%", "0.750", "too low"]


@pytest.mark.slow
def test_the_command_runs_the_suite_and_compares_two_files(tmp_path: Path) -> None:
    asked = [
        "suite=quality", "quality.generated=[tile]", "quality.experiments=[quality_pca,quality_padim]",
        "quality.overrides=[" + ",".join(f'"{value}"' for value in QUICK) + "]",
    ]  # fmt: skip
    ran = command("benchmark", *asked, "quality.result=first.json", "run_dir=here", cwd=tmp_path)
    assert ran.code == 0, ran.out
    content = json.loads((tmp_path / "first.json").read_text())
    assert [one["experiment"] for one in content["rows"]] == ["quality_pca", "quality_padim"]
    assert content["rows"][0]["metrics"]["auroc"] is not None
    assert content["rows"][0]["decision"]["good"] == 3
    again = command(
        "benchmark", *asked, "quality.result=first.json", "quality.against=first.json", "run_dir=here", cwd=tmp_path
    )
    assert "quality_padim against quality_padim" in again.out
    wrong = command("benchmark", "suite=nothing", "run_dir=here", cwd=tmp_path)
    assert wrong.code != 0
    assert "suite=nothing" in wrong.out
