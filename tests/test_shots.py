"""Few-shot: training normals drawn by the seed, a threshold that says what it rests on, and a curve over the seeds."""

import json

import pytest
from test_leaderboard import make_run
from test_splits import category
from toy import BARE, SMALL, command

from anomaly_lightning.data.splits import _drawn, make_splits
from anomaly_lightning.errors import DataError
from anomaly_lightning.reports.leaderboard import read_rows, summarise, write_leaderboard
from anomaly_lightning.reports.leaderboard.shots import plotted, shot_curves


def drawn(shots, seed=0, **settings):
    return make_splits(category(), seed=seed, shots=shots, **settings)


class TestDraw:
    """Which normals are kept."""

    def test_more_shots_are_the_fewer_ones_and_others(self):
        kept = [set(drawn(shots).train) for shots in (1, 2, 4)]
        assert [len(one) for one in kept] == [1, 2, 4]
        assert kept[0] < kept[1] < kept[2] < set(drawn(None).train)

    def test_the_seed_draws_them_and_nothing_else_does(self):
        assert drawn(4) == drawn(4)
        assert len({_drawn(category().train, seed, 2) for seed in range(6)}) > 1
        first, again = drawn(2), make_splits(category(), seed=0, shots=2, validation_share=0.2)
        assert first.train == again.train

    def test_the_held_out_and_the_test_images_stay(self):
        few, all_ = drawn(1, selection_share=0.4), drawn(None, selection_share=0.4)
        assert (few.validation, few.selection, few.test) == (all_.validation, all_.selection, all_.test)

    @pytest.mark.parametrize("shots", [0, -1, 1000])
    def test_numbers_that_there_are_not_are_refused(self, shots):
        with pytest.raises(DataError, match=rf"data\.shots={shots}: expected null, or 1 to \d+"):
            drawn(shots)


def test_a_run_on_two_shots_says_what_its_threshold_rests_on(root, tmp_path):
    where = (*SMALL[:3], "category=custom", "category.name=widget", f"data.root={root}", "trainer.accelerator=cpu")
    ran = command(
        "train", *where, "model=pca", "data.shots=2", *BARE, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path
    )
    assert ran.code == 0, ran.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["counts"]["train"] == 2
    assert metrics["counts"]["validation"] == 3
    basis = " ".join(metrics["threshold"]["rests_on"])
    assert "learned from 2 normals alone (data.shots), the threshold did not: without these 3 others" in basis
    given = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    assert command("evaluate", given, f"hydra.run.dir={tmp_path / 'again'}", cwd=tmp_path).code == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["counts"] == metrics["counts"]


class TestCurve:
    """The leaderboard's curve over shots."""

    @pytest.fixture
    def board(self, tmp_path):
        for model, extra in (("pca", ()), ("pca", ("model.variance=0.9",)), ("patchcore", None)):
            for shots, base in ((4, 0.9), (1, 0.7)):
                for seed in (0, 1, 2):
                    settings = () if extra is None else (f"data.shots={shots}", *extra)
                    folder = tmp_path / f"{model}-{len(settings)}-{shots}-{seed}"
                    make_run(folder, auroc=base + 0.02 * seed, model=model, seed=seed, overrides=settings)
        return summarise(read_rows([tmp_path]))

    def test_is_one_a_method_over_its_seeds(self, board):
        curves = shot_curves(board)
        assert [curve.method for curve in curves] == [("pca", "tiny", ()), ("pca", "tiny", ("model.variance=0.9",))]
        for curve in curves:
            (one, seeds, mean, deviation), (four, *_, last, _) = curve.points
            assert (one, seeds, four) == (1, 3, 4)
            assert (mean, deviation, last) == pytest.approx((0.72, 0.02, 0.92))

    def test_is_drawn_to_scale(self, board):
        drawn = plotted(shot_curves(board)[0])
        assert drawn["floor"] == "0.7"
        assert [dot["x"] for dot in drawn["dots"]] == [25, 75]
        # 0.72 is 1/15, 0.92 is 11/15 of the way from 0.7 to 1; the box is 40 high and y points down.
        assert [dot["y"] for dot in drawn["dots"]] == pytest.approx([37.33, 10.67])
        assert [dot["low"] for dot in drawn["dots"]] == pytest.approx([40, 13.33])
        assert drawn["dots"][0]["text"] == "0.720 ± 0.020"

    def test_stands_on_the_page_where_there_is_one(self, board, tmp_path):
        write_leaderboard(board, tmp_path)
        page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
        assert page.count("<figure>") == 2
        assert "1 normals 0.720 ± 0.020; 4 normals 0.920 ± 0.020" in page
        write_leaderboard(summarise(board.rows[:1]), tmp_path)
        assert "By the number of training normals" not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
