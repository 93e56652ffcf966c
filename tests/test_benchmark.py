"""The benchmark: what it measures and how ratios are made. Nothing here looks at how fast anything was."""

import json

import numpy as np
import pytest
from toy import command, flat

from anomaly_lightning.bench import training
from anomaly_lightning.bench.timing import Rounds, cycle

STAGES = {"decode", "resize", "backbone", "features", "detector", "score_and_map", "tensor_to_map", "whole"}
TIMES = {"p50_ms", "p95_ms", "p99_ms", "ratio", "cpu_ratio"}
FAST = (
    "debug=fast",
    "backbone=tiny",
    "bench.rounds=3",
    "bench.warmup=1",
    "bench.batch_size=2",
    "trainer.accelerator=cpu",
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("benchmark")
    ran = command("benchmark", "category=tile", *FAST, "model.memory.size=50", "run_dir=here", cwd=place)
    assert ran.code == 0, ran.out
    return place / "here", json.loads((place / "here" / "benchmark.json").read_text()), ran.out


def test_every_stage_has_its_times_for_one_image_and_for_a_batch(measured):
    _folder, found, _out = measured
    assert [found["inference"][name]["images"] for name in ("single", "batch")] == [1, 2]
    for block in found["inference"].values():
        assert set(block["stages"]) == STAGES
        assert all(set(row) == TIMES for row in block["stages"].values())
        assert block["stages"]["backbone"]["ratio"] == block["stages"]["backbone"]["cpu_ratio"] == 1


def test_training_is_taken_apart_and_compared(measured):
    _folder, found, _out = measured
    own, baseline = found["training"]["autoencoder"], found["training"]["patchcore (baseline)"]
    assert (own["epochs"], baseline["epochs"]) == (2, 1)
    assert own["images_computed"] == sum(found["resolved"]["counts"].values())
    assert baseline["images_computed"] == 0, "the baseline is served from the store that was built before"
    for parts in (own, baseline):
        assert {"features_s", "statistics_s", "fit_s", "calibrate_s", "test_s", "total_s", "epoch_s"} <= set(parts)
    compared = found["comparison"]
    stages = ("features_s", "fit_s", "calibrate_s", "test_s")
    assert compared["own_s"] == pytest.approx(sum(own[stage] for stage in stages))
    assert compared["baseline_s"] == pytest.approx(compared["baseline_fit_and_test_s"] + own["features_s"])
    naive = found["naive"]
    assert naive["extrapolated_to"] == own["epochs"]
    assert naive["with_store_s"] == pytest.approx(own["features_s"] + own["fit_s"])
    assert naive["speedup"] == pytest.approx(naive["extrapolated_s"] / naive["with_store_s"])


def test_machine_and_versions_stand_beside_the_times(measured):
    _folder, found, _out = measured
    assert {"hardware", "versions", "load_average"} <= set(found["machine"])
    assert found["machine"]["hardware"]["torch_threads"] >= 1
    assert found["resolved"]["backbone"] == "tiny"
    assert list(found["peak_memory_mb"]) == ["start", "training", "predictions", "gpu"]


def test_the_tables_say_it_too_and_the_store_is_gone(measured):
    folder, _found, out = measured
    for word in (*STAGES, "all stages", "baseline's fit and test alone", "naive loop", "peak memory", "benchmark.json"):
        assert word in flat(out)
    assert not (folder / "cache").exists()


def test_no_baseline_and_no_naive_loop_for_a_method_without_gradients(tmp_path):
    ran = command("benchmark", *FAST, "model=pca", "bench.baseline=null", "run_dir=here", cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((tmp_path / "here" / "benchmark.json").read_text())
    assert list(found["training"]) == ["pca"]
    assert found["naive"] is found["comparison"] is None


def test_the_default_with_its_localiser_is_measured_and_the_baseline_has_none(tmp_path):
    more = ("cache.mode=disk", "features.grid=8", "model.memory.size=50", "model.fusion.memory.size=50")
    short = ("localiser=unet", "localiser.steps=2", "localiser.detector.examples=4", "bench.naive_epochs=1")
    ran = command("benchmark", "category=tile", *FAST, *more, *short, "run_dir=here", cwd=tmp_path)
    assert ran.code == 0, ran.out
    found = json.loads((tmp_path / "here" / "benchmark.json").read_text())
    own, baseline = found["training"]["autoencoder"], found["training"]["patchcore (baseline)"]
    assert own["images_computed"] == baseline["images_computed"] > 0, "other features: the localiser's keep their grids"


def test_an_unknown_baseline_is_an_error_before_anything_is_read(tmp_path):
    ran = command("benchmark", *FAST, "bench.baseline=nobody", cwd=tmp_path)
    assert ran.code != 0
    assert "bench.baseline=nobody" in flat(ran.out)
    assert "padim" in flat(ran.out)


def test_ratios_are_medians_of_the_same_rounds_after_the_warm_up():
    rounds = Rounds(warmup=1)
    rounds.durations = {"base": [(9, 9), (1, 2), (2, 2), (4, 4)], "work": [(1, 1), (3, 4), (2, 2), (2, 2)]}
    found = rounds.summary("base", images=2)["work"]
    assert found["ratio"] == 1  # of 3, 1 and 0.5
    assert found["cpu_ratio"] == 1  # 8 of 8
    assert found["p50_ms"] == 1000  # 2 s for two images
    assert found["p95_ms"] == pytest.approx(1000 * np.percentile([3, 2, 2], 95) / 2)


def test_all_stages_of_both_methods_are_compared_each_with_the_feature_pass():
    own = {"features_s": 4.0, "fit_s": 10.0, "calibrate_s": 1.0, "test_s": 3.0, "epoch_s": 2.0, "total_s": 18.5}
    parts = {"features_s": 0.5, "fit_s": 3.0, "calibrate_s": 1.0, "test_s": 1.0, "epoch_s": 3.0, "total_s": 6.0}
    baseline = {**parts, "images_computed": 0}
    assert training.comparison(own, baseline) == {
        "own_s": 18,
        "baseline_s": 9,
        "baseline_fit_and_test_s": 5,
        "ratio": 2,
        "ratio_to_fit_and_test": 3.6,
    }
    assert training.comparison(own, {**parts, "images_computed": 9})["baseline_s"] == 5.5, "with features of its own"


def test_images_take_turns():
    assert list(cycle([1, 2, 3], 2, 3)) == [[1, 2], [3, 1], [2, 3]]
