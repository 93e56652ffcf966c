"""Calibration on training normals: each scored by statistics that had not seen it, on the final detector's scale."""

import numpy as np
import pytest
import torch

from anomaly_lightning.calibration import Highest, on_final_scale
from anomaly_lightning.deploy.cost import scaled
from anomaly_lightning.errors import CalibrationError
from anomaly_lightning.runtime.card import ThresholdsCard
from anomaly_lightning.training import cross_fitting
from anomaly_lightning.training.callbacks.calibration import CalibrationCallback


def test_a_fold_is_moved_to_the_final_scale_by_the_held_out_pairs():
    # The fold's detector says three times as much as the final one, give or take: geometric mean of 1/2, 1/3, 2/9.
    moved = on_final_scale([30.0, 60.0], [2.0, 3.0, 9.0], torch.tensor([1.0, 1.0, 2.0]))
    assert moved == pytest.approx(np.array([30.0, 60.0]) * (1 / 2 * 1 / 3 * 2 / 9) ** (1 / 3))
    with pytest.raises(CalibrationError, match="2 and 1"):
        on_final_scale([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(CalibrationError, match="calibration_folds at 0"):
        on_final_scale([1.0], [0.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize("model", ["padim", "autoencoder"])
def test_the_threshold_rests_on_all_normals(session, model):
    made = session(f"model={model}", "calibration_folds=3", "threshold=conformal", "threshold.alpha=0.1")
    made.run()
    card, module = made.module.card.thresholds, made.module
    assert card.promise["normals"] == 15, "12 to train and 3 held out: enough for 10 %, where 3 are not"
    assert card.promise["cross_fitted"] == 12
    assert len(card.scores) == 3, "what watches for a shift compares with normals that nothing has seen"
    assert "12 training normals, each scored by one of 3 refits" in card.promise["rests_on"][1]
    before = {name: value.clone() for name, value in module.model.detector.state_dict().items()}
    scores = cross_fitting.cross_fitted(module, made.data, 12, 3, module.card.seed)
    ordered = np.sort(np.concatenate((scores.double().numpy(), card.scores)))
    assert card.score == pytest.approx(ordered[14], rel=1e-5)  # ceil(16 * .9) = 15th of 15
    after = module.model.detector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_refits_leave_their_fold_out(session):
    made = session("model=padim")
    made.run()
    known = cross_fitting.score(made.module, made.data.statistics_dataloader())
    for left_out in cross_fitting.refits(made.module, made.data, 12, 4, 0):
        unseen = cross_fitting.chosen(made.data.statistics_dataloader(), left_out)
        assert (cross_fitting.score(made.module, unseen) > known[left_out]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("model=padim", "calibration_folds=13"), "2 to 12 folds"),
        (("model=noise_gaussian", "calibration_folds=3"), "learns by gradients alone"),
        (
            ("model.whitening=null", "model.memory=null", "model.fusion=null", "calibration_folds=3"),
            "the same as before",
        ),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(session, given, words):
    with pytest.raises(CalibrationError, match=words):
        session(*given).run()


def test_an_export_moves_what_rests_on_cross_fitted_normals():
    said = {"mean": 2.0, "std": 1.0, "review": 3.0, "normals": 15, "cross_fitted": 12, "rests_on": []}
    known = ThresholdsCard(score=4.0, pixel=7.0, review=3.0, promise=said, scores=(1.0, 2.0))
    found = scaled(known, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), 9.0, ["Again."])
    assert (found.score, found.review, found.pixel, found.scores) == (8.0, 6.0, 9.0, (2.0, 4.0))
    assert found.promise == {**said, "mean": 4.0, "std": 2.0, "review": 6.0, "rests_on": ["Again."]}


def test_one_fold_is_none():
    with pytest.raises(CalibrationError, match="calibration_folds=1: expected 0"):
        CalibrationCallback(Highest(), Highest(), folds=1)
