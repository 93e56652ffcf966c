"""From error maps to scores, against scipy, torch and figures worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from anomaly_lightning.errors import UserError
from anomaly_lightning.scoring import Scoring, gaussian_blur, image_score

SIZES = {"grid": (8, 6), "size": (64, 48)}


def anomaly_map(errors, size, sigma):
    return Scoring(sigma, grid=tuple(errors.shape[1:]), size=size).maps(errors)


def maps(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=shape))


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("shape", [(31, 17), (9, 40), (3, 5)], ids=str)
def test_the_blur_is_scipys(sigma, shape):
    values = maps(2, 1, *shape)
    blurred = gaussian_blur(values, sigma)
    # scipy's radius is int(4 sigma + 0.5); equal to round() but at halves, which are avoided here
    wanted = [ndimage.gaussian_filter(v, sigma, mode="nearest", truncate=4.0) for v in values[:, 0].numpy()]
    np.testing.assert_allclose(blurred[:, 0].numpy(), np.stack(wanted), rtol=1e-10)


def test_no_sigma_no_blur_and_a_constant_stays_one():
    values = maps(1, 1, 7, 5)
    assert torch.equal(gaussian_blur(values, 0), values)
    constant = torch.full((1, 1, 7, 5), 3.0)
    torch.testing.assert_close(gaussian_blur(constant, 4.0), constant)


def test_a_map_is_resampled_bilinearly_then_blurred():
    errors = maps(3, 8, 6).float()
    wanted = F.interpolate(errors[:, None], (64, 48), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(anomaly_map(errors, (64, 48), 0), wanted)
    smooth = ndimage.gaussian_filter(wanted[1].numpy(), 2.0, mode="nearest", truncate=4.0)
    np.testing.assert_allclose(anomaly_map(errors, (64, 48), 2.0)[1].numpy(), smooth, rtol=1e-4)


def test_height_and_width_are_not_swapped():
    errors = torch.zeros(1, 8, 6)
    errors[0, 6, 1] = 1.0
    found = anomaly_map(errors, (64, 48), 1.0)[0]
    row, column = divmod(int(found.argmax()), 48)
    assert found.shape == (64, 48)
    assert abs(row - 51.5) <= 1
    assert abs(column - 11.5) <= 1


def test_reductions_by_hand():
    values = torch.tensor([[4.0, 1.0, 2.0, 8.0, 5.0, 10.0], [0.0, 0.0, 0.0, 0.0, 0.0, 6.0]])
    assert image_score(values, "max").tolist() == [10, 6]
    assert image_score(values, "mean").tolist() == [5, 1]
    assert image_score(values, "top", 0.5).tolist() == pytest.approx([23 / 3, 2])  # three of six pixels
    assert image_score(values, "top", 0.01).tolist() == [10, 6]  # one pixel at least
    assert image_score(values, "top", 1.0).tolist() == [5, 1]


def test_scores_keep_the_unit_of_the_errors():
    errors = maps(2, 8, 6).float()
    for reduction in ("max", "top", "mean"):
        scoring = Scoring(sigma=2.0, reduction=reduction, **SIZES)
        _, small = scoring(errors)
        _, large = scoring(1e6 * errors)
        torch.testing.assert_close(large, 1e6 * small, rtol=1e-5, atol=0)


def test_a_image_is_scored_alone():
    errors = maps(4, 8, 6).float()
    scoring = Scoring(**SIZES)
    found, scores = scoring(errors)
    for index in range(4):
        alone, score = scoring(errors[index : index + 1])
        torch.testing.assert_close(alone[0], found[index])
        torch.testing.assert_close(score[0], scores[index])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reduction": "median"}, "scoring.reduction=median: expected one of max, top, mean"),
        ({"sigma": -1.0}, "scoring.sigma=-1.0"),
        ({"share": 0.0}, r"scoring.share=0.0: expected a share in \(0, 1\]"),
        ({"share": 1.5}, "scoring.share=1.5"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(settings, named):
    with pytest.raises(UserError, match=named):
        Scoring(**settings, **SIZES)


def on_the_sample(values):
    """The largest values where every sixteenth one is looked at: the bound that they tell is too high."""
    return values.sort(1, descending=True).values[:, torch.arange(values.shape[1]).view(-1, 16).T.flatten().argsort()]


def beside_the_sample(values):
    """Where the sample sees none of the largest: its bound is too low."""
    rising = values.sort(1).values
    places = range(values.shape[1])
    order = torch.tensor([*places[::16], *(place for place in places if place % 16)])
    return rising[:, order.argsort()]


@pytest.mark.parametrize("arrange", [lambda values: values, on_the_sample, beside_the_sample])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.9])
def test_the_top_share_is_numpys_wherever_the_largest_lie(arrange, share):
    values = arrange(maps(3, 4096))
    count = round(share * 4096)
    expected = np.sort(values.numpy())[:, -count:].mean(1)
    np.testing.assert_allclose(image_score(values, "top", share), expected, rtol=1e-12)


def test_a_value_that_is_no_number_is_not_lost_among_the_largest():
    values = maps(1, 64 * 64)
    values[0, 5 * 64 + 7] = torch.nan  # at no sixteenth place
    assert torch.isnan(image_score(values, "top", 0.01)).all()
