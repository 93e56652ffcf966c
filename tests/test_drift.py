"""The drift monitor: its promise against closed forms and simulation, causes, resets, and what it keeps."""

import json
import logging

import msgspec
import numpy as np
import pytest
from drifting import NAMES, K, drawn, normals_card, show
from lines import image, inspector
from scipy import stats
from toy import card, composed, save

from anomaly_lightning.deploy.drift import drift_of
from anomaly_lightning.errors import CheckpointError, UserError
from anomaly_lightning.runtime import drift_state
from anomaly_lightning.runtime.card import DriftCard, ModelCard
from anomaly_lightning.runtime.drift import DriftMonitor, Observer, counted, shares
from anomaly_lightning.runtime.drift_evidence import BINS, Evidence, Reference, bets, bins, scores, shiryaev_roberts
from anomaly_lightning.runtime.drift_fit import fit_drift
from anomaly_lightning.runtime.drift_measures import measures, of_map, thumbnail
from anomaly_lightning.runtime.drift_watch import DriftWatch
from anomaly_lightning.runtime.inspector import Inspector


@pytest.fixture
def random():
    return np.random.default_rng(0)


# ---- The promise --------------------------------------------------------------------------------------------------


def test_the_mean_run_length_of_fair_coins_is_the_closed_form(random):
    """A bet that doubles on heads and loses all on tails: 5 heads in a row come after 2^6 - 2 tosses in the mean."""
    limit, runs = 2.0**6 - 2, 4000
    values, lengths = np.zeros(runs), np.zeros(runs)
    while (running := values < limit).any():
        lengths += running
        values = np.where(running, shiryaev_roberts(values, 2.0 * random.integers(0, 2, runs)), values)
    assert lengths.mean() == pytest.approx(limit, rel=4 / np.sqrt(runs))


def test_bets_gain_nothing_on_average():
    z = np.linspace(-12, 12, 100_001)
    assert np.trapezoid(bets(z) * stats.norm.pdf(z)[:, None], z, axis=0) == pytest.approx(np.ones(8), abs=1e-9)
    assert scores(np.array([0.5, 0.025, 0.975])) == pytest.approx(stats.norm.isf([0.5, 0.025, 0.975]))
    assert np.isfinite(scores(np.array([0.0, 1.0]))).all()


def test_ranks_are_those_of_a_plain_count(random):
    start = np.zeros((2, 6), np.int64)
    start[:, 2], seen = 3, [[2, 2, 2], [2, 2, 2]]
    reference = Reference(start)
    for _ in range(50):
        places, ties = random.integers(0, 6, 2), 1 - random.random(2)
        found = reference.rank(places, ties)
        for row in range(2):
            seen[row].append(int(places[row]))
            above, equal = (sum(value > places[row] for value in seen[row]), seen[row].count(int(places[row])))
            assert found[row] == pytest.approx((above + ties[row] * equal) / len(seen[row]))
    assert (reference.counts == [[row.count(value) for value in range(6)] for row in seen]).all()
    assert (reference.sizes == 53).all()


def test_ranks_after_three_normals_are_uniform_and_independent(random):
    streams, edges = 20_000, np.linspace(-2, 2, 40)
    values = np.searchsorted(edges, random.normal(size=(streams, 8)))
    start = np.zeros((streams, 41), np.int64)
    for column in range(3):
        np.add.at(start, (np.arange(streams), values[:, column]), 1)
    reference = Reference(start)
    p = np.array([reference.rank(values[:, column], 1 - random.random(streams)) for column in range(3, 8)])
    assert min(stats.kstest(row, "uniform").pvalue for row in p) > 0.001
    assert np.abs(np.corrcoef(p) - np.eye(5)).max() < 4 / np.sqrt(streams)


def alarmed(random, normals, images, per_alarm, fixed):
    """Share of 200 streams with an alarm within so many images; `fixed` ranks among the calibration normals alone."""
    streams, wider = 200, 8  # bins put together, for speed
    cards = [normals_card(random, normals) for _ in range(streams)]
    start = np.array([counted(one) for one in cards]).reshape(streams, K, -1, wider).sum(-1)
    middle, scale = (np.array([getattr(one, name) for one in cards]) for name in ("middle", "scale"))
    reference, evidence, found = Reference(start), Evidence(streams, K), np.zeros(streams, bool)
    for _ in range(images):
        places = bins(random.normal(size=(streams, K)), middle, scale) // wider
        p = (Reference(start) if fixed else reference).rank(places, 1 - random.random((streams, K)))
        z = stats.norm.isf(np.clip(p, 1e-12, 1 - 1e-12))
        found |= (evidence.update(z) >= 2 * per_alarm / shares()).any(axis=1)
    return found.mean()


def test_false_alarms_of_few_normals_stay_below_the_promise(random):
    promised = 100 / (2 * 100)  # within 100 images, where at most one alarm in 100 images is promised
    assert alarmed(random, normals=8, images=100, per_alarm=100, fixed=False) < promised - 0.1


def test_ranks_among_few_normals_alone_would_break_it(random):
    assert alarmed(random, normals=8, images=100, per_alarm=100, fixed=True) > 0.9


def test_the_monitor_does_what_its_parts_do(random):
    known, values = normals_card(random, 20), drawn(random, 150, brightness=0.4)
    monitor = DriftMonitor(known, 50, seed=3)
    number = show(monitor, values)
    ties, reference, evidence = np.random.default_rng((3, 0)), Reference(counted(known)), Evidence(K)
    middle, scale = np.array(known.middle), np.array(known.scale)
    strengths = []
    for row in values:
        ranks = reference.rank(bins(row, middle, scale), 1 - ties.random(K))
        strengths.append((evidence.update(stats.norm.isf(ranks)) / (2 * 50 / shares())).max())
    assert number == 1 + next(index for index, strength in enumerate(strengths) if strength >= 1)


def test_each_group_has_as_much_of_the_promise_as_the_others():
    assert shares().sum() == pytest.approx(1)
    assert shares()[NAMES.index("log_median")] == pytest.approx(1 / 3)


def test_bins_hold_the_median_and_never_lose_a_value():
    one = np.ones(1)
    assert bins(np.array([5.0]), 5 * one, one) == bins(np.array([5.0 - 1e-9]), 5 * one, one)
    ordered = bins(np.array([[-np.inf], [-1e9], [-2.0], [0.0], [0.1], [1e9], [np.nan]]), 0 * one, one)[:, 0]
    assert (np.diff(ordered) >= 0).all()
    assert (ordered[0], ordered[-1]) == (0, BINS - 1)


def test_a_promise_that_makes_no_sense_is_refused(random):
    with pytest.raises(UserError, match="images_per_alarm=5"):
        DriftMonitor(normals_card(random), 5)


# ---- Causes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "invalid", "cause"),
    [
        ({"brightness": -3.0}, False, "camera or lighting"),
        ({"log_median": 4.0, "log_fine_across": -4.0}, True, "camera or lighting"),
        ({"log_median": 4.0}, False, "camera or lighting"),
        ({"layout": 30.0, "log_median": 9.0}, True, "another product"),
        ({"log_height": 30.0}, True, "another product"),
        ({"log_score": 5.0, "log_top": 9.0}, False, "camera or lighting"),  # or all parts are defective
    ],
)
def test_causes_of_changes_of_all_images(moved, invalid, cause, random):
    monitor = DriftMonitor(normals_card(random))
    assert show(monitor, drawn(random, 300)) is None
    assert show(monitor, drawn(random, 100, **moved), invalid) < 15
    assert monitor.alarm.cause == cause
    assert 295 <= monitor.alarm.since <= 310
    assert monitor.alarm.image == monitor.images


def test_a_cause_that_few_images_tell_is_named_again(random):
    monitor = DriftMonitor(normals_card(random))
    show(monitor, drawn(random, 300))
    show(monitor, drawn(random, 10, log_median=9.0, log_score=9.0))
    assert (monitor.alarm.cause, monitor.images - monitor.alarm.since < 10) == ("camera or lighting", True)
    show(monitor, drawn(random, 15, log_median=9.0, layout=30.0), invalid=True)
    assert monitor.alarm.cause == "another product"
    show(monitor, drawn(random, 15))
    show(monitor, drawn(random, 100))
    assert monitor.alarm.cause == "another product"  # 30 images have told it


def test_a_few_defects_are_told_from_a_camera(random):
    monitor = DriftMonitor(normals_card(random))
    assert show(monitor, drawn(random, 1500)) is None
    defects = drawn(random, 1500, log_score=8.0, log_top=8.0, log_upper=3.0)
    stream = np.where(random.random((1500, 1)) < 0.08, defects, drawn(random, 1500))
    assert show(monitor, stream) is not None
    assert monitor.alarm.cause == "more defects"


# ---- Alarm, reset, restart ------------------------------------------------------------------------------------------


@pytest.fixture
def raised(random):
    """A monitor with an alarm after 100 images without a change."""
    monitor = DriftMonitor(normals_card(random))
    show(monitor, drawn(random, 100))
    assert show(monitor, drawn(random, 50, brightness=4.0)) is not None
    return monitor


def test_nothing_is_learned_while_an_alarm_stands(raised, random):
    before, alarm = raised.reference.counts, raised.alarm
    assert show(raised, drawn(random, 20, brightness=4.0)) is None
    assert (raised.reference.counts == before).all()
    assert raised.alarm == alarm
    assert raised.status()["evidence"] == 1


@pytest.mark.parametrize(("reference", "left"), [("calibration", 30), ("line", 0)])
def test_a_reset_says_what_to_compare_with(raised, reference, left):
    raised.reset(reference)
    assert raised.alarm is None
    assert (raised.reference.sizes == left).all()
    assert raised.status()["evidence"] == 0


def test_a_reset_keeps_what_was_seen_where_nothing_is_said(raised, random):
    before = raised.reference.counts
    raised.reset()
    assert (raised.reference.counts == before).all()
    assert show(raised, drawn(random, 200)) is None


def test_the_present_state_can_be_the_right_one(raised, random):
    raised.reset("line")
    assert show(raised, drawn(random, 300, brightness=4.0)) is None
    assert show(raised, drawn(random, 100)) is not None


def test_another_word_is_refused(raised):
    with pytest.raises(UserError, match="seen, calibration, line"):
        raised.reset("now")


def test_a_restart_goes_on(raised, random, tmp_path):
    file, known = tmp_path / "far" / "drift.npz", raised.card
    drift_state.save(raised, file)
    later = DriftMonitor(known)
    assert drift_state.load(later, file)
    assert (later.alarm, later.images, later.alarms) == (raised.alarm, raised.images, 1)
    for monitor in (raised, later):
        monitor.reset()
        show(monitor, drawn(np.random.default_rng(1), 20, brightness=0.5))
    assert (later.evidence.values == raised.evidence.values).all()
    assert (later.reference.counts == raised.reference.counts).all()
    assert later.status() == raised.status()


def test_evidence_survives_a_restart(random, tmp_path):
    known, values = normals_card(random), drawn(random, 80, brightness=4.0)
    monitor = DriftMonitor(known)
    assert show(monitor, values[:4]) is None
    drift_state.save(monitor, tmp_path / "drift.npz")
    later = DriftMonitor(known)
    drift_state.load(later, tmp_path / "drift.npz")
    assert (later.evidence.values == monitor.evidence.values).all()
    assert show(later, values[4:]) is not None
    assert later.alarm.since < 3


def test_state_of_another_model_or_a_damaged_one_is_put_aside(raised, random, tmp_path, caplog):
    file = tmp_path / "drift.npz"
    drift_state.save(raised, file)
    other = DriftMonitor(normals_card(random))
    assert not drift_state.load(other, file)
    assert "another model" in caplog.text
    assert (other.images, other.alarm) == (0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["drift.unused"]
    file.write_bytes(b"PK\x03\x04 and no more")
    assert not drift_state.load(other, file)
    assert not drift_state.load(other, file)


# ---- What is measured ---------------------------------------------------------------------------------------------


def test_defects_and_light_move_different_measures(random):
    noise = random.integers(0, 40, (20, 30, 3)).astype(np.uint8)
    bad, dark = noise.copy(), (0.5 * noise).astype(np.uint8)
    bad[5:7, 20:24, 0] = 255
    made, mean = inspector(), np.zeros((16, 16))
    plain, defect, light = (dict(zip(NAMES, measures(made(one), mean), strict=True)) for one in (noise, bad, dark))
    assert defect["log_top"] - plain["log_top"] > 1
    assert defect["log_median"] == plain["log_median"]
    assert light["log_top"] == pytest.approx(plain["log_top"], abs=0.1)
    assert light["log_median"] == pytest.approx(plain["log_median"] - np.log(2), abs=0.1)
    assert light["brightness"] < 0.6 * plain["brightness"]
    assert light["layout"] == pytest.approx(plain["layout"], abs=0.1)


def test_what_lies_outside_of_the_region_is_no_part_of_the_median():
    said = inspector()(image(red=True))
    assert said.anomaly_map.min() == 0
    assert of_map(said)[3] == pytest.approx(0.0, abs=1e-3)  # log of 1, the value of the red spot
    assert np.isfinite(of_map(inspector()(image()))).all()  # a map of zeros


def test_normals_are_kept_as_images_of_a_line_will_be_measured(random, tmp_path):
    paths = [save(random.integers(0, 90, (20, 30, 3)).astype(np.uint8), tmp_path / f"{n}.png") for n in range(9)]
    made = inspector()
    fitted = fit_drift(made, paths[:4], paths[4:])
    assert [len(values) for values in fitted.normals] == [4] * 4 + [9] * (K - 4)
    shown = measures(made(paths[0]), np.array(fitted.thumbnail).reshape(16, 16))
    for row in range(K - 1):
        assert fitted.normals[row][0] == shown[row]
    others = np.mean([thumbnail(made(path).image) for path in paths[1:]], axis=0)
    assert fitted.normals[-1][0] == pytest.approx(np.abs(thumbnail(made(paths[0]).image) - others).mean(), abs=1e-6)
    assert msgspec.json.decode(msgspec.json.encode(fitted), type=DriftCard) == fitted
    assert fit_drift(made, paths[:1], paths[1:]) is None


# ---- The card, and bundles without --------------------------------------------------------------------------------


def test_a_card_of_an_earlier_version_can_be_read(random):
    old = card(inspector().transform).to_dict()
    del old["drift"]
    assert ModelCard.from_dict(old).drift is None
    new = card(inspector().transform, drift=normals_card(random))
    assert ModelCard.from_dict(json.loads(json.dumps(new.to_dict()))) == new


def test_measures_of_another_version_are_refused(random):
    strange = msgspec.structs.replace(normals_card(random), measures=("brightness",))
    with pytest.raises(CheckpointError, match=r"drift\.watch=false"):
        Observer(strange)


def test_without_statistics_it_says_how_to_get_them():
    watch = DriftWatch(None)
    assert watch.take(inspector()(image())) is None
    assert watch.status()["watched"] is False
    assert "export the checkpoint again" in watch.status()["why"]
    with pytest.raises(UserError, match="not watched"):
        watch.reset()
    assert "drift.watch=false" in DriftWatch(None, watch=False).status()["why"]


def test_a_fault_of_the_monitor_costs_no_verdict(random, monkeypatch, caplog):
    watch = DriftWatch(normals_card(random))
    monkeypatch.setattr(watch.monitor, "update", lambda seen: 1 / 0)
    assert watch.take(inspector()(image())) is None
    assert "The drift monitor failed" in caplog.text


def test_training_keeps_what_normals_measure_and_an_old_checkpoint_gets_it_by_export(checkpoint, tmp_path, caplog):
    known = Inspector.load(checkpoint, "cpu").card
    assert [len(values) for values in known.drift.normals] == [3] * 4 + [15] * (K - 4)
    cfg = composed(f"checkpoint={checkpoint}", f"output={tmp_path}", config="export")
    assert drift_of(cfg, checkpoint, known) is known.drift
    again = drift_of(cfg, checkpoint, known.replace(drift=None))
    assert np.allclose(np.concatenate(again.normals), np.concatenate(known.drift.normals), atol=1e-4)
    moved = known.replace(
        drift=None, data=msgspec.structs.replace(known.data, places={**known.data.places, "root": "/no"})
    )
    with caplog.at_level(logging.WARNING):
        assert drift_of(cfg, checkpoint, moved) is None
    assert "Drift is not watched" in caplog.text
