"""Searches: what may vary, how a study goes on, which trials count; and one from the command line, with pruning."""

import json

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from toy import BARE, command, composed, flat

optuna = pytest.importorskip("optuna", reason="the extra `optuna` is not installed")

from anomaly_lightning.sweeps.errors import SweepError  # noqa: E402
from anomaly_lightning.sweeps.search import Search  # noqa: E402
from anomaly_lightning.sweeps.space import Space  # noqa: E402
from anomaly_lightning.sweeps.study import shown  # noqa: E402

WORDS = ("category=leather", "model.network.width=range(8,129,8)", "optimizer.lr=tag(log,interval(1e-4,1e-1))")


def space(*words, **params):
    return Space.of(params, words, None)


def test_values_become_distributions_and_the_rest_is_fixed():
    found = space(*WORDS, "model.rim=true,false", "++trainer.max_epochs=7")
    dist = optuna.distributions
    assert found.varied == {
        "model.network.width": dist.IntDistribution(8, 128, step=8),
        "optimizer.lr": dist.FloatDistribution(1e-4, 1e-1, log=True),
        "model.rim": dist.CategoricalDistribution(["True", "False"]),
    }
    assert found.fixed == ("category=leather", "++trainer.max_epochs=7")
    assert found.overrides({"model.rim": "True"}) == ["category=leather", "++trainer.max_epochs=7", "model.rim=True"]


def test_words_come_before_the_presets():
    found = space("model.network.width=choice(8,16)", **{"model.network.width": "choice(64,128)", "model.pool": "1"})
    assert found.varied["model.network.width"].choices == ("8", "16")
    assert found.fixed == ("model.pool=1",)


@pytest.mark.parametrize("word", ["category=leather,tile", "data.image_size=128,256", "seed=0,1", "model=pca,padim"])
def test_losses_of_different_things_are_not_compared(word):
    with pytest.raises(SweepError, match=rf"{word.partition('=')[0]} can't be searched"):
        space(word)
    assert space("data.batch_size=8,16").varied


def test_a_search_of_nothing_is_refused():
    with pytest.raises(SweepError, match="nothing to search"):
        space("category=leather")


class Runs:
    """A launcher whose runs take no time; the loss is lowest at width 64 and rises with the rate."""

    def __init__(self, folder):
        self.folder, self.seen, self.lost, self.pruned, self.images = folder, [], set(), set(), "same"
        self.cut_off_at = None

    def launch(self, job_overrides, initial_job_idx):
        return [self._run(words, initial_job_idx + place) for place, words in enumerate(job_overrides)]

    def _run(self, words, number):
        if len(self.seen) == self.cut_off_at:
            raise KeyboardInterrupt
        values = dict(word.split("=", 1) for word in words)
        self.seen.append(values)
        status = "pruned" if number in self.pruned else "finished"
        (self.folder / str(number)).mkdir(parents=True)
        content = {"status": status, "dataset_fingerprint": self.images}
        (self.folder / str(number) / "run.json").write_text(json.dumps(content))
        loss = abs(int(values["model.network.width"]) - 64) + float(values.get("optimizer.lr", 0))
        done = JobReturn(status=JobStatus.COMPLETED)
        done.return_value = None if number in self.pruned | self.lost else loss
        return done


@pytest.fixture
def search(tmp_path):
    """Starts a search over widths and rates, each time in a folder of its own; returns the launcher."""
    starts = []

    def start(trials, words=WORDS, prepare=lambda runs: None, **more):
        changed = {"sweeper.n_trials": trials} | {f"sweeper.{name}": value for name, value in more.items()}
        folder = tmp_path / f"start{len(starts)}"
        cfg = composed("hydra/sweeper=optuna", "category=leather", with_hydra=True)  # once for all tests
        OmegaConf.set_readonly(cfg.hydra, False)
        storage = f"sqlite:///{tmp_path}/kept/studies.db"
        given = {"sweep.dir": str(folder), "job.config_name": "train", "sweeper.storage": storage, **changed}
        for name, value in given.items():
            OmegaConf.update(cfg.hydra, name, value)
        runs = Runs(folder)
        prepare(runs)
        starts.append(runs)
        Search(cfg, None, runs).run(words)
        return runs

    start.starts = starts
    return start


def study(tmp_path):
    return optuna.load_study(study_name="leather-autoencoder", storage=f"sqlite:///{tmp_path}/kept/studies.db")


def widths(runs):
    return [(values["model.network.width"], values["optimizer.lr"]) for values in runs.seen]


def test_the_best_trial_is_told_and_no_trial_sees_the_test_images(search, tmp_path, caplog):
    caplog.set_level("INFO")
    runs = search(5)
    assert len(runs.seen) == 5
    assert {values["test"] for values in runs.seen} == {"false"}
    best = min(runs.seen, key=lambda v: abs(int(v["model.network.width"]) - 64) + float(v["optimizer.lr"]))
    result = OmegaConf.load(runs.folder / "optimization_results.yaml")
    assert result.best_params["model.network.width"] == int(best["model.network.width"])
    again = f"model.network.width={best['model.network.width']} optimizer.lr={best['optimizer.lr']}"
    assert f"python -m anomaly_lightning.train category=leather {again}" in caplog.text
    assert "test=false" not in caplog.text.partition("With testing:")[2]


def test_test_images_can_not_be_asked_for(search):
    with pytest.raises(SweepError, match="test=true"):
        search(1, words=(*WORDS, "test=true"))


def test_a_search_goes_on_where_it_was_cut_off(search, tmp_path):
    def cut(runs):
        runs.cut_off_at = 3

    with pytest.raises(KeyboardInterrupt):
        search(6, prepare=cut)
    second = search(6)
    first = search.starts[0]
    assert [len(first.seen), len(second.seen)] == [3, 3]
    cut_off = study(tmp_path).trials[3].params
    assert widths(second)[0] == (str(cut_off["model.network.width"]), str(cut_off["optimizer.lr"])), "that one first"
    assert not set(widths(first)) & set(widths(second)), "a seeded sampler does not begin anew"
    assert search(6).seen == []
    assert [trial.state.name for trial in study(tmp_path).trials].count("COMPLETE") == 6


def test_a_failed_trial_is_tried_again_at_the_next_start_and_a_pruned_one_is_not(search, tmp_path):
    def trouble(runs):
        runs.lost, runs.pruned = {1}, {2}

    first = search(4, prepare=trouble)
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    second = search(4)
    assert widths(second) == [widths(first)[1]]
    assert search(4).seen == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("optimizer.lr", (*WORDS[:2], "optimizer.lr=choice(0.1,0.2)")),
        ("trainer.max_epochs=3 .here alone", (*WORDS, "trainer.max_epochs=3")),
    ],
)
def test_another_search_under_the_same_name_is_refused(search, changed, words):
    search(1)
    with pytest.raises(SweepError, match=changed):
        search(2, words=words)


def test_another_name_or_place_is_no_other_search(search):
    search(1)
    assert not search(1, words=(*WORDS, "data.workers=2", "cache.dir=elsewhere")).seen
    assert search(1, study_name="other", words=WORDS[:2]).seen


def test_images_that_have_changed_end_a_search(search):
    search(1)

    def change(runs):
        runs.images = "others"

    with pytest.raises(SweepError, match="images are not those"):
        search(2, prepare=change)


def test_a_storage_that_is_none_is_told(search):
    with pytest.raises(SweepError, match="can't be used") as told:
        search(1, storage="mysql+nothing://me:secret@host/db")
    assert "secret" not in str(told.value)
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


def test_without_a_storage_nothing_is_kept_and_nothing_is_pruned(search):
    runs = search(2, storage=None)
    assert not any("callbacks.pruning" in values for values in runs.seen)
    assert len(search(2, storage=None).seen) == 2


def test_methods_without_a_loss_can_not_be_searched(search):
    with pytest.raises(SweepError, match="brought a validation loss"):
        search(2, prepare=lambda runs: runs.lost.update({0, 1}))


@pytest.mark.slow
def test_a_search_from_the_command_line_prunes_and_says_what_was_best(widget, tmp_path):
    words = (*(word for word in widget if "network.latent" not in word), *BARE, "model.network.latent=range(2,9)")
    searched = ("--multirun", "hydra/sweeper=optuna", *words)
    first = command("train", *searched, "hydra.sweeper.n_trials=1", cwd=tmp_path)
    assert first.code == 0, first.out
    # Only what is better than every trial before it at the same epoch is let go on.
    harsh = ("hydra.sweeper.pruner._target_=optuna.pruners.PercentilePruner", "+hydra.sweeper.pruner.percentile=0.0")
    free = ("hydra.sweeper.pruner.n_startup_trials=0", "hydra.sweeper.pruner.n_warmup_steps=0")
    second = command("train", *searched, *harsh, *free, "hydra.sweeper.n_trials=4", cwd=tmp_path)
    assert second.code == 0, second.out
    (kept,) = (tmp_path / "outputs" / "multirun").glob("searches.db")
    trials = optuna.load_study(study_name="widget-autoencoder", storage=f"sqlite:///{kept}").trials
    states = [trial.state.name for trial in trials]
    assert states.count("PRUNED") >= 1
    assert states.count("PRUNED") + states.count("COMPLETE") == 4
    for trial in trials:
        (folder,) = (tmp_path / "outputs" / "multirun").glob(f"*/{trial.number}")
        run = json.loads((folder / "run.json").read_text())
        assert run["status"] == ("pruned" if trial.state.name == "PRUNED" else "finished")
        assert (folder / "metrics.json").exists() == (trial.state.name != "PRUNED")
        assert not (folder / "predictions.csv").exists(), "no trial scores a test image"
        if trial.state.name == "COMPLETE":
            assert trial.value == run["validation_loss"]
    assert f"Best of {states.count('COMPLETE')} trials ({states.count('PRUNED')} more pruned)" in flat(second.out)
