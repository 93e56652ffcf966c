import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from report_run import BAD_SCORES, GOOD_SCORES, make_results
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score
from toy import command

from anomaly_lightning.training.callbacks import board_figures
from anomaly_lightning.training.callbacks.tensorboard import LearningHeatmaps, TensorBoardPanels, _first_of_each


@pytest.fixture(scope="module")
def events(run_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(run_folder / "tensorboard"), size_guidance={"images": 0})
    read.Reload()
    return read


def test_run_shows_its_test_and_how_it_learnt(events):
    tags = events.Tags()
    assert {"scores/test", "learning/heatmaps"} <= set(tags["images"])
    assert {"scores/normal", "scores/anomalous"} <= set(tags["histograms"])
    assert {"image/f1", "image/auroc"} <= set(tags["scalars"])  # what the table of runs compares
    assert "test/by_rank_of_score" in events.summary_metadata
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_heatmaps_are_drawn_in_the_first_and_the_last_epoch(events):
    epochs = [event.step for event in events.Images("learning/heatmaps")]
    last = max(event.step for event in events.Scalars("epoch"))
    assert epochs[0] == 0
    assert len(epochs) == 2
    assert last > 0


def test_looking_changes_nothing_that_is_learnt(run_folder, widget, tmp_path):
    ran = command("train", *widget, "~callbacks.learning", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    one, other = (
        torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
        for folder in (run_folder, tmp_path / "run")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items() if isinstance(value, torch.Tensor))


def test_ranks_keep_the_order_and_so_the_curve():
    scores = torch.tensor([300.0, -5.0, 20.0, 20.0, 7.0])
    ranks = board_figures.ranks(scores)
    assert ranks.tolist() == [1.0, 0.0, 0.625, 0.625, 0.25]
    assert kendalltau(scores.numpy(), ranks).statistic == pytest.approx(1)
    labels = np.array([1, 0, 1, 0, 0])
    assert average_precision_score(labels, ranks) == average_precision_score(labels, scores.numpy())


def test_histogram_counts_all_images_and_stands_equal_scores(tmp_path: Path):
    results = make_results(tmp_path)
    axis = board_figures.histogram(results).axes[0]
    assert sum(patch.get_height() for patch in axis.patches) == len(GOOD_SCORES) + sum(map(len, BAD_SCORES.values()))
    object.__setattr__(results, "scores", torch.full((len(results.samples),), 1e7))
    assert board_figures.histogram(results).axes


def test_first_of_each_defect(tmp_path):
    results = make_results(tmp_path)
    assert _first_of_each(results.samples, 2) == [0, 1, 8, 9, 13, 14]
    assert [tag for tag, _ in TensorBoardPanels(1)._chosen(results)][1:] == ["crack/0", "<i>dent/0"]


def test_zero_draws_never():
    class Trainer:
        current_epoch, max_epochs, loggers = 0, 1, ()

    from anomaly_lightning.training.module import AnomalyModule

    callback = LearningHeatmaps(every_n_epochs=0)
    callback.on_train_epoch_end(Trainer(), AnomalyModule.__new__(AnomalyModule))
    assert callback._inputs is None
