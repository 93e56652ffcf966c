"""Metrics of pixels against hand-computed cases, sklearn and a slow threshold loop of its own."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as sk

from anomaly_lightning.metrics import PixelMetrics, by_defect
from anomaly_lightning.metrics.histogram import RESOLUTION, Histogram, bins_of, merged
from anomaly_lightning.metrics.ranking import average_precision

Case = list[tuple[torch.Tensor, torch.Tensor]]
AREAS = ("auroc", "average_precision", "aupro", "aupro_005", "f1_oracle")
METRICS = (*AREAS, "f1", "iou")


def random_case(seed: int, images: int = 6, ties: bool = False) -> Case:
    """Maps (H, W), each of another size, whose masks hold many regions of all sizes; every third image is good."""
    rng = np.random.default_rng(seed)
    case = []
    for index in range(images):
        shape = (rng.integers(16, 22), rng.integers(30, 40))
        mask = ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.3
        mask &= index % 3 > 0
        values = rng.normal(size=shape) + mask * rng.uniform(0.5, 3)
        values = np.round(values * 2) if ties else values
        case.append((torch.tensor(values * 50 + 1000, dtype=torch.float32), torch.tensor(mask)))
    return case


def filled(case: Case, threshold: float | None = None, max_pixels: int = 50_000_000) -> PixelMetrics:
    metrics = PixelMetrics(threshold, max_pixels)
    for anomaly_map, mask in case:
        metrics.update(anomaly_map, mask)
    return metrics


def slow_aupro(case: Case, limit: float) -> float:
    """Every value a threshold, region by region, then the area by small trapezoids and a cut at the limit."""
    values = np.unique(np.concatenate([m.numpy().ravel() for m, _ in case]))[::-1]
    regions = []
    for anomaly_map, mask in case:
        labels, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
        regions += [anomaly_map.numpy()[labels == region] for region in range(1, count + 1)]
    normal = np.concatenate([m.numpy()[~k.numpy()] for m, k in case])
    x = [0.0, *(np.mean(normal >= value) for value in values)]
    y = [0.0, *np.mean([(region >= values[:, None]).mean(axis=1) for region in regions], axis=0)]
    area = 0.0
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:], strict=False):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y1 if x1 == x0 else y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_overlap_by_hand() -> None:
    """Regions of 1 and of 3 pixels (one joined by a corner) weigh the same; the limit cuts a step."""
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 0, 0]], dtype=torch.bool)
    values = torch.tensor([[9.0, 8, 1, 1, 1], [2, 2, 2, 7, 7], [2, 2, 3, 2, 5]])
    metrics = PixelMetrics(4.0)
    metrics.update(values, mask)
    block, notes = metrics.compute(bootstrap=0)
    assert notes.keys() == {"pixel.aupimo"}
    assert block["regions"] == 2
    # Falling: 9 -> region one whole, overlap 1/2; 8 normal; 7, 7 -> 1/2 + 1/3; 5 normal; 3 -> 1; then 9 normals.
    x1, x2 = 1 / 11, 2 / 11
    assert block["aupro_005"] == pytest.approx(1 / 2)
    assert block["aupro"] == pytest.approx((x1 * 1 / 2 + (x2 - x1) * 5 / 6 + (0.3 - x2) * 1) / 0.3)
    assert block["auroc"] == pytest.approx((11 + 10 + 10 + 9) / 44)
    assert block["average_precision"] == pytest.approx((1 + 3 / 4 * 2 + 4 / 6) / 4)
    assert block["f1"] == pytest.approx(6 / 9)
    assert block["iou"] == pytest.approx(3 / 6)
    assert block["f1_oracle"] == pytest.approx(8 / 10)  # from 3 on: all four, and two normal ones


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_brute_force_and_sklearn(seed: int, ties: bool) -> None:
    case = random_case(seed, ties=ties)
    block, _ = filled(case, 1070.0).compute(bootstrap=0)
    assert block["regions"] > 30
    values = np.concatenate([m.numpy().ravel() for m, _ in case])
    masks = np.concatenate([k.numpy().ravel() for _, k in case])
    precision, recall, _ = sk.precision_recall_curve(masks, values)
    expected = {
        "auroc": sk.roc_auc_score(masks, values),
        "average_precision": sk.average_precision_score(masks, values),
        "f1": sk.f1_score(masks, values > 1070.107),  # the threshold and its margin of a ten-thousandth
        "f1_oracle": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-9)),
        "iou": sk.jaccard_score(masks, values > 1070.107),
        "aupro": slow_aupro(case, 0.3),
        "aupro_005": slow_aupro(case, 0.05),
    }
    assert {name: block[name] for name in expected} == pytest.approx(expected, abs=1e-10)
    assert block["exact"] is True
    assert block["resolution"] == 0


def test_a_value_at_the_threshold_is_not_called() -> None:
    threshold = float(np.float32(0.1))
    metrics = PixelMetrics(threshold)
    metrics.update(torch.tensor([[0.1, 0.1, 0.2]]), torch.tensor([[False, True, True]]))
    block, _ = metrics.compute(bootstrap=0)
    assert block["iou"] == pytest.approx(1 / 2)


def blobs(seed: int, images: int) -> Case:
    """Larger smooth maps; every other image is good."""
    rng = np.random.default_rng(seed)
    case = []
    for index in range(images):
        mask = ndimage.gaussian_filter(rng.normal(size=(150, 210)), 6) > 0.09
        mask &= index % 2 > 0
        values = np.exp(2 * rng.normal() / 3 + ndimage.gaussian_filter(rng.normal(size=(150, 210)), 2) * 4 + mask)
        case.append((torch.tensor(values, dtype=torch.float32), torch.tensor(mask)))
    return case


@pytest.mark.parametrize("seed", range(3))
def test_bins_are_fine_enough(seed: int) -> None:
    case = blobs(seed, 12)
    exact, _ = filled(case, 5.0).compute(bootstrap=0)
    block, _ = filled(case, 5.0, max_pixels=100_000).compute(bootstrap=0)  # passed by the fourth image
    assert (exact["exact"], block["exact"], block["resolution"]) == (True, False, RESOLUTION)
    for name in METRICS:
        assert block[name] == pytest.approx(exact[name], abs=5e-5 if name in AREAS else 0)


def test_bins_keep_the_order_of_values_and_their_stated_width() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-30, 30, 500), [0.0, 1e-45, 3.4e38, -3.4e38]])
    values = np.unique(values.astype(np.float32))
    assert (np.diff(bins_of(values, exact=True).astype(np.int64)) > 0).all()
    assert (np.diff(bins_of(values, exact=False).astype(np.int64)) >= 0).all()
    assert bins_of(np.array([0.0, -0.0]), exact=True).tolist() == [0, 0]
    step = np.array([1.0, 1 + 0.99 * RESOLUTION, 1 + RESOLUTION, 1.5 + 0.99 * RESOLUTION, 1.5])
    first, same, following, *upper = bins_of(step, exact=False).tolist()
    assert (first, first + 1) == (same, following)
    assert upper[0] == upper[1]


@pytest.mark.parametrize("spread", [3, 2**30])
def test_histograms_by_hand(spread: int) -> None:
    """Bins close together, which are counted, and far apart, which are sorted."""
    bins = np.array([5, -1, 5, 5 + spread, -1], np.int32)
    one = Histogram.of(bins, np.array([[1.0, 1, 1, 1, 1], [0.5, 2, 4, 8, 16]]))
    assert one.bins.tolist() == [-1, 5, 5 + spread]
    assert one.weights.tolist() == [[2, 2, 1], [18, 4.5, 8]]
    both = merged([one, Histogram.of(np.array([5, 6], np.int32), np.array([[1.0, 1], [0, 0]]))])
    assert both.at_least(np.array([-2, -1, 0, 5, 6, 7, 6 + spread])).tolist()[0] == [7, 7, 5, 5, 2, 1, 0]
    assert Histogram.of(bins[:0], np.zeros((2, 0))).at_least(bins).tolist() == [[0] * 5] * 2


def slow_aupimo(case: Case) -> float:
    """The overlap at 20,000 rates, evenly spread on the logarithmic axis, each with the lowest threshold allowed."""
    good = [np.sort(m.numpy().ravel()) for m, k in case if not k.any()]
    levels = np.unique(np.concatenate(good))
    levels = levels[-len(levels) // 10 :]  # thresholds; rising
    rates = np.mean([1 - np.searchsorted(values, levels, side="right") / len(values) for values in good], axis=0)
    wanted = np.geomspace(1e-5, 1e-4, 20_001)
    wanted = np.sqrt(wanted[1:] * wanted[:-1])
    thresholds = levels[[np.argmax(rates <= rate) for rate in wanted]]
    return float(np.mean([np.mean(m.numpy()[k.numpy()] > t) for m, k in case if k.any() for t in thresholds[::20]]))


def large(seed: int, sizes: tuple[tuple[int, int], ...]) -> Case:
    """One good image of each size, enough pixels for low rates, and two defective images."""
    rng = np.random.default_rng(seed)
    case = [(torch.tensor(rng.exponential(size=size)), torch.zeros(size, dtype=torch.bool)) for size in sizes]
    for shift in (6.0, 9.0):
        mask = torch.zeros(60, 90, dtype=torch.bool)
        mask[5:25, 10:40] = True
        case.append((torch.tensor(rng.exponential(size=(60, 90))) + shift * mask, mask))
    return case


@pytest.mark.parametrize("sizes", [((400, 500), (400, 500)), ((300, 300), (200, 900))])
@pytest.mark.parametrize("max_pixels", [50_000_000, 1000])
def test_aupimo_agrees_with_brute_force(sizes: tuple[tuple[int, int], ...], max_pixels: int) -> None:
    case = large(1, sizes)
    block, _ = filled(case, None, max_pixels).compute(bootstrap=100)
    assert block["aupimo"] == pytest.approx(slow_aupimo(case), abs=2e-3)
    assert 0.01 < block["aupimo"] < 0.3
    low, high = block["ci95"]["aupimo"]
    assert low < block["aupimo"] < high


def test_aupimo_by_hand() -> None:
    """Of 200,000 good pixels 4 lie above 1 and 16 at 1: rates 0, 2e-5 and 1e-4; the image's pixels above, at, below."""
    good = torch.zeros(400, 500)
    good[0, :4], good[1, :16] = 2.0, 1.0
    metrics = PixelMetrics()
    metrics.update(good, torch.zeros_like(good, dtype=torch.bool))
    metrics.update(torch.tensor([[3.0, 1.5, 1.0, 0.5, 9.0]]), torch.tensor([[True, True, True, True, False]]))
    block, _ = metrics.compute(bootstrap=0)
    # Up to 2e-5 only what lies above 2 is called; from there on to 1e-4 what lies above 1.
    assert block["aupimo"] == pytest.approx(np.log10(2) * 1 / 4 + np.log10(5) * 2 / 4)


def test_aupimo_needs_good_pixels_enough_for_its_rates() -> None:
    block, notes = filled(large(2, ((300, 300),))).compute(bootstrap=5)
    assert block["aupimo"] is None
    assert "aupimo" not in block["ci95"]
    assert "90000 pixels, too few" in notes["pixel.aupimo"]
    assert block["aupro"] is not None


@pytest.mark.parametrize("max_pixels", [50_000_000, 1000])
def test_order_and_units_do_not_matter(max_pixels: int) -> None:
    case = random_case(7, images=9)
    offset = 1000 if max_pixels > 1000 else 0  # taken away, half of the values are negative; bins would be others
    plain, _ = filled(case, 1070.0, max_pixels).compute(bootstrap=30)
    scaled = [((m.double() - offset) * 2.0**-30, k) for m, k in reversed(case)]
    threshold = (1070.107 - offset) / 1.0001 * 2.0**-30  # the margin grows with the values: it cuts where 1070 does
    other, _ = filled(scaled, threshold, max_pixels).compute(bootstrap=30)
    assert other.pop("threshold") == threshold
    assert plain.pop("threshold") == 1070.0
    assert other["ci95"].keys() == plain["ci95"].keys()
    for name, value in other.pop("ci95").items():
        assert value == pytest.approx(plain["ci95"][name], abs=1e-12)
    plain.pop("ci95")
    assert other == pytest.approx(plain, abs=1e-12)


def test_an_image_after_the_metrics_counts() -> None:
    case = random_case(8)
    metrics = filled(case[:3])
    metrics.compute(0)
    for anomaly_map, mask in case[3:]:
        metrics.update(anomaly_map, mask)
    assert metrics.compute(0) == filled(case).compute(0)


def test_precision_in_a_bin_is_taken_at_its_middle() -> None:
    normal, anomalous = np.array([0.0, 0, 10]), np.array([0.0, 10, 20])
    assert average_precision(normal, anomalous) == pytest.approx((1 + 20 / 30) / 2)
    assert average_precision(normal, anomalous, binned=True) == pytest.approx((1 + 15.5 / 20.5) / 2)


def test_intervals_are_by_image() -> None:
    case = random_case(9, images=12)
    metrics = filled(case, 1070.0)
    block, _ = metrics.compute(bootstrap=200, seed=0)
    assert set(block["ci95"]) == set(METRICS)
    assert metrics.compute(200, 0)[0]["ci95"] == block["ci95"]
    assert metrics.compute(200, 1)[0]["ci95"] != block["ci95"]
    for name in METRICS:
        low, high = block["ci95"][name]
        assert low < block[name] < high
    # The same images four times over: as many pixels would shrink the interval fourfold, as many images by half.
    low, high = block["ci95"]["auroc"]
    low4, high4 = filled(case * 4, 1070.0).compute(200, 0)[0]["ci95"]["auroc"]
    assert (high4 - low4) / (high - low) == pytest.approx(0.5, abs=0.15)


def test_intervals_against_resampling_in_full() -> None:
    """The edges that images share cost little: the same draws, with every pixel sorted anew."""
    case = random_case(10, images=9)
    block, _ = filled(case, 1070.0).compute(bootstrap=2000)
    rng = np.random.default_rng(5)
    strata = [[i for i in range(9) if i % 3 == 0], [i for i in range(9) if i % 3 > 0]]
    samples = []
    for _ in range(100):
        chosen = [case[i] for stratum in strata for i in rng.choice(stratum, len(stratum))]
        samples.append([filled(chosen, 1070.0).compute(0)[0][name] for name in METRICS])
    for name, column in zip(METRICS, np.transpose(samples), strict=True):
        low, high = block["ci95"][name]
        assert np.mean((column >= low) & (column <= high)) == pytest.approx(0.95, abs=0.06)


def test_random_maps_reach_chance_only() -> None:
    rng = np.random.default_rng(11)
    case = [(torch.tensor(rng.normal(size=m.shape)), k) for m, k in random_case(11, images=24)]
    block, _ = filled(case).compute()
    low, high = block["ci95"]["auroc"]
    assert low < 0.5 < high
    low, high = block["ci95"]["aupro"]
    assert low < 0.15 < high  # a diagonal up to 0.3 has half of that as its height


@pytest.mark.parametrize("max_pixels", [50_000_000, 100])
def test_constant_maps(max_pixels: int) -> None:
    case = [(torch.full(m.shape, 3.0), k) for m, k in random_case(12)]
    block, _ = filled(case, 3.0, max_pixels).compute(bootstrap=20)
    assert block["auroc"] == pytest.approx(0.5)
    assert block["aupro"] == pytest.approx(0.15)
    assert block["iou"] == 0.0
    assert block["ci95"]["iou"] == [0.0, 0.0]


def test_undefined_metrics_have_reasons() -> None:
    good = [(m, torch.zeros_like(k)) for m, k in random_case(13)]
    nothing_normal = [(m, torch.ones_like(k)) for m, k in random_case(13)]
    for case, reason in (([], "no masks"), (good, "no mask has"), (nothing_normal, "no normal")):
        metrics = filled(case, 1.0)
        block, notes = metrics.compute()
        assert notes.keys() == {f"pixel.{name}" for name in (*METRICS, "aupimo")}
        assert all(block[name] is None for name in METRICS)
        assert reason in notes["pixel.aupro"]
        assert metrics.pro_curve() is None
        assert metrics.pro_band() is None
        assert metrics.auroc_by_defect() == {}
        json.dumps(block, allow_nan=False)
    block, notes = filled(random_case(13), float("nan")).compute(bootstrap=5)
    assert notes.keys() == {"pixel.f1", "pixel.iou", "pixel.aupimo"}
    assert block["f1"] is block["iou"] is block["threshold"] is None
    assert set(block["ci95"]) == set(AREAS)


def test_what_may_not_enter() -> None:
    values = torch.zeros(3, 5)
    values[1, 2:4] = float("nan")
    with pytest.raises(ValueError, match="2 of 15"):
        PixelMetrics().update(values, torch.zeros(3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        PixelMetrics().update(torch.zeros(3, 5), torch.zeros(5, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="uint8"):
        PixelMetrics().update(torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.uint8))


@pytest.mark.parametrize("max_pixels", [50_000_000, 1000])
def test_overlap_curve_ends_at_the_limit_and_keeps_its_area(max_pixels: int) -> None:
    metrics = filled(blobs(3, 8), None, max_pixels)
    drawn = metrics.pro_curve()
    assert drawn is not None
    x, y = drawn["false_alarm_rate"], drawn["overlap"]
    assert (x[0], y[0], x[-1]) == (0.0, 0.0, 0.3)
    assert 300 < len(x) == len(y) <= 500
    area = np.trapezoid(y, x) / 0.3
    assert area == pytest.approx(metrics.compute(0)[0]["aupro"], abs=2e-3)


def test_overlap_band_by_hand() -> None:
    """Four single-pixel defects, three above all normals and one below: overlap k / 4, k from Binomial(4, 3 / 4)."""
    metrics = PixelMetrics()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for value in (9.0, 9.0, 9.0, -9.0):
        defect = mask.clone()
        defect[0, 0] = True
        metrics.update(torch.tensor([[value, 1, 2], [3, 4, 5]]), defect)
    metrics.update(torch.tensor([[1.0, 2, 3], [4, 5, 5]]), mask)
    band = metrics.pro_band(resamples=2000)
    assert band is not None
    assert band["false_alarm_rate"] == pytest.approx(np.linspace(0, 0.3, 101))
    assert band["low"] == pytest.approx([1 / 4] * 101)  # P(k = 0) = 0.4 %, P(k <= 1) = 5.1 %
    assert band["high"] == pytest.approx([1.0] * 101)  # P(k = 4) = 32 %
    # No resample's curve crosses another's, so the band's area is the interval of the area.
    assert metrics.compute(2000)[0]["ci95"]["aupro"] == pytest.approx([1 / 4, 1])


@pytest.mark.parametrize("max_pixels", [50_000_000, 1000])
def test_overlap_band_holds_the_curve_and_fits_the_interval_of_its_area(max_pixels: int) -> None:
    metrics = filled(blobs(4, 16), None, max_pixels)
    curve, band = metrics.pro_curve(), metrics.pro_band(200, seed=0)
    assert curve is not None
    assert band is not None
    x, low, high = (np.array(band[name]) for name in ("false_alarm_rate", "low", "high"))
    middle = np.interp(x, curve["false_alarm_rate"], curve["overlap"])
    assert (low[1:] < middle[1:]).all()
    assert (middle < high).all()
    areas = np.trapezoid([low, high], x) / 0.3
    assert areas == pytest.approx(metrics.compute(200, 0)[0]["ci95"]["aupro"], abs=0.02)
    assert metrics.pro_band(200, seed=0) == band
    assert metrics.pro_band(200, seed=1) != band


def test_overlap_band_against_resampling_in_full() -> None:
    """The same draws, with every pixel sorted anew: at each rate 95 % of the curves lie within."""
    case = random_case(10, images=9)
    band = filled(case).pro_band(2000)
    assert band is not None
    rng = np.random.default_rng(6)
    strata = [[i for i in range(9) if i % 3 == 0], [i for i in range(9) if i % 3 > 0]]
    curves = []
    for _ in range(300):
        chosen = [case[i] for stratum in strata for i in rng.choice(stratum, len(stratum))]
        curve = filled(chosen).pro_curve(points=100_000)
        assert curve is not None
        curves.append(np.interp(band["false_alarm_rate"], curve["false_alarm_rate"], curve["overlap"]))
    within = np.mean((np.array(curves) >= band["low"]) & (np.array(curves) <= band["high"]), axis=0)
    assert within[1:] == pytest.approx([0.95] * 100, abs=0.04)


@pytest.mark.parametrize(("max_pixels", "tolerance"), [(50_000_000, 1e-12), (1000, 1e-3)])
def test_by_defect_sets_each_type_against_all_good_images(max_pixels: int, tolerance: float) -> None:
    case = random_case(14, images=9)
    names = ["good", "crack", "dent"] * 3
    metrics = PixelMetrics(None, max_pixels)
    for (anomaly_map, mask), name in zip(case, names, strict=True):
        metrics.update(anomaly_map, mask, name)
    labels = torch.tensor([name != "good" for name in names])
    rows, notes = by_defect(torch.arange(9.0), labels, names, 4.0, metrics)
    assert notes == {}
    for defect in ("crack", "dent"):
        chosen = [pair for pair, name in zip(case, names, strict=True) if name in (defect, "good")]
        masks = np.concatenate([k.numpy().ravel() for _, k in chosen])
        values = np.concatenate([m.numpy().ravel() for m, _ in chosen])
        assert rows[defect]["pixel_auroc"] == pytest.approx(sk.roc_auc_score(masks, values), abs=tolerance)
