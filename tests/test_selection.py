"""What held-out normals may move: the ones that choose, epoch and power; the ones that calibrate, thresholds alone."""

import numpy as np
import torch
from toy import save, texture

PARTED = ("data.validation_share=0.45", "data.selection_share=0.5")  # of 15 normals 3 choose and 3 calibrate


def outcome(made):
    """State of the detector, thresholds, and the validation loss of a run."""
    loss = made.run()
    state = {name: value.clone() for name, value in made.module.model.detector.state_dict().items()}
    return state, made.module.card.thresholds, loss


def repaint(samples):
    """Other images in the place of some: ones that no autoencoder of the others rebuilds as well."""
    rng = np.random.default_rng(5)
    for sample in samples:
        save((0.4 * texture(rng)[::-1]).astype(np.uint8), sample.path)


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_normals_that_calibrate_move_the_thresholds_and_nothing_else(session):
    made = session(*PARTED)
    splits = made.source.splits
    assert (len(splits.train), len(splits.selection), len(splits.validation)) == (9, 3, 3)
    state, thresholds, loss = outcome(made)
    assert len(thresholds.scores) == 3
    repaint(splits.validation)
    again, moved, loss_again = outcome(session(*PARTED))
    assert same(state, again)
    assert loss == loss_again
    assert moved.score != thresholds.score
    assert moved.pixel != thresholds.pixel


def test_normals_that_choose_move_loss_and_power(session):
    made = session(*PARTED)
    state, _, loss = outcome(made)
    repaint(made.source.splits.selection)
    again, _, loss_again = outcome(session(*PARTED))
    assert loss != loss_again
    assert state["power"] != again["power"]


WITHOUT = ("model.whitening=null", "model.memory=null", "model.fusion=null")  # parts that held-out normals weigh


def test_the_promise_says_what_the_normals_were_used_for(session):
    _, once, _ = outcome(session(*PARTED))
    assert once.promise["rests_on"] == [
        "3 held-out normals that the model was not trained on, drawn like the training normals.",
        "They were used for nothing else: "
        "3 other held-out normals chose the epoch and the weights of the error's parts.",
    ]
    _, twice, _ = outcome(session())
    assert twice.promise["rests_on"][1].startswith(
        "The same normals also chose the epoch and the weights of the error's parts, so the promise is approximate"
    )
    _, plain, _ = outcome(session(*WITHOUT))
    assert "also chose the epoch, so" in plain.promise["rests_on"][1]
    unwatched = ("callbacks.best=null", "callbacks.stopping=null", *WITHOUT)
    _, last, _ = outcome(session(*unwatched))
    assert last.promise["rests_on"][1] == "They were used for nothing else."
