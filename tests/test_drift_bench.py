"""suite=drift of the benchmark: pools from real files, streams that keep the promise, tables."""

import json

import numpy as np
import pytest
from drifting import K, drawn
from toy import command

from anomaly_lightning.bench.drift import pools
from anomaly_lightning.bench.drift.pools import CHANGES, DEFECTS, PRODUCT, Pool
from anomaly_lightning.bench.drift.streams import EVERY, FEW, cards, changed, stable


@pytest.fixture(scope="module")
def pool():
    """Made images: 15 held-out normals and 40 tested ones, and changes that move different measures."""
    random = np.random.default_rng(0)

    def row(count, invalid=0.0, **moved):
        return np.column_stack([drawn(random, count, **moved), np.full(count, invalid)])

    changes = {"brightness -10 %": row(20, brightness=-5.0), PRODUCT: row(20, 1.0, layout=30.0)}
    changes |= {DEFECTS: row(20, log_score=8.0, log_top=8.0)}
    return Pool("made", row(15), row(40), random.normal(size=(30, K - 4)), changes)


def test_calibration_and_stream_share_no_image(pool):
    for split, known in (("run", [15, 45]), ("random", [15, 15])):
        card, stream = cards(pool, np.random.default_rng(0), split)
        assert [len(card.normals[0]), len(card.normals[-1])] == known
        assert not set(np.round(stream[:, 0], 6)) & set(card.normals[0])
        assert len(stream) == 40


def test_streams_without_a_change_keep_the_promise_and_others_do_not(pool):
    found = stable(pool, "random", streams=20, images=400, per_alarm=200)
    assert found.shape == (20,)
    assert found.sum() <= 20 * 400 / 200
    worse = Pool("worse", pool.held_out, pool.tested + 3 * np.eye(K + 1)[4], pool.looks, pool.changed)
    assert stable(worse, "run", streams=5, images=400, per_alarm=200).min() > 0


def test_changes_are_found_and_named(pool):
    found = {}
    for kind, one in changed(pool, "random", before=300, streams=3, per_alarm=1000):
        found.setdefault(kind, []).append(one)
    assert {one.cause for one in found["brightness -10 %"]} == {"camera or lighting"}
    assert {one.cause for one in found[PRODUCT]} == {"another product"}
    assert {one.cause for one in found[EVERY]} == {"camera or lighting"}
    assert max(one.images for one in found[PRODUCT]) < min(one.images or 9999 for one in found[FEW])


@pytest.mark.slow
def test_the_suite_goes_from_runs_to_tables(checkpoint, tmp_path):
    options = ("streams.images=40", "streams.streams=2", "streams.changes=1", "streams.images_per_alarm=20")
    folder = tmp_path / "out"
    given = f"streams.checkpoints=[{checkpoint},{checkpoint}]"
    ran = command("benchmark", "suite=drift", given, *options, f"hydra.run.dir={folder}", cwd=tmp_path)
    assert ran.code == 0, ran.out
    assert "Causes that were named" in ran.out
    found = json.loads((folder / "benchmark.json").read_text())
    assert [row["defects"] for row in found["stable"]] == [0.0, 0.01, 0.0]
    assert {row["change"] for row in found["changed"]} == {*CHANGES, PRODUCT, FEW, EVERY}
    kept = pools.load(folder / "pools" / "widget.npz")
    assert (kept.held_out.shape, kept.tested.shape, kept.looks.shape) == ((3, K + 1), (5, K + 1), (12, K - 4))
    assert kept.changed[DEFECTS].shape == (7, K + 1)
    dark = kept.changed["brightness -10 %"][:, 4].mean() / np.concatenate([kept.held_out, kept.tested])[:, 4].mean()
    assert dark == pytest.approx(0.9, abs=0.01)
