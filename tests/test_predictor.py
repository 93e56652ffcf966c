"""The verdict's words, and the review band of a model that was calibrated with one."""

import pytest
import torch

from anomaly_lightning.runtime.files import images_in
from anomaly_lightning.runtime.inspector import Prediction, Predictor
from anomaly_lightning.runtime.reading import read_image


@pytest.mark.parametrize(
    ("decision", "review", "invalid", "verdict"),
    [
        (False, False, None, "OK"),
        (False, True, None, "REVIEW"),
        (True, False, None, "NG"),
        (True, False, "black", "INVALID"),
        (False, True, "black", "INVALID"),
    ],
)
def test_verdict(decision, review, invalid, verdict):
    assert Prediction(1.0, decision, torch.zeros(2, 3), torch.zeros(2, 3), review, invalid).verdict == verdict


def test_scores_between_the_two_thresholds_are_for_review(checkpoint, root):
    predictor = Predictor.from_checkpoint(checkpoint, validity=False)
    image = read_image(images_in(root, recursive=True)[0])
    score = predictor(image).score
    band = {"below": (0.5 * score, 2 * score), "ng": (0.1 * score, 0.5 * score), "ok": (1.5 * score, 2 * score)}
    verdicts = {}
    for name, (review, threshold) in band.items():
        predictor.module.calibration["review"] = review
        predictor.module.threshold.fill_(threshold)
        verdicts[name] = predictor(image).verdict
    assert verdicts == {"below": "REVIEW", "ng": "NG", "ok": "OK"}
