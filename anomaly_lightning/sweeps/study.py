"""A search's study in Optuna's storage: made or gone on with, checked to be of the same search, its trials counted."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from anomaly_lightning.sweeps.errors import SweepError

logger = logging.getLogger(__name__)

AGAIN = "again"  # attribute of a trial: number of the lost one whose values it tries
SEARCH, IMAGES = "search", "dataset_fingerprint"  # attributes of a study
OVER = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(
    name: str, storage: str | None, sampler: DictConfig, pruner: DictConfig | None, content: Mapping[str, Any]
) -> optuna.Study:
    """The study of a search, new or as an earlier start left it.

    Args:
        name: Of the study in its storage.
        storage: URL of a database, None for memory.
        sampler: With a `seed`, which earlier trials move on: else the same values would be proposed again.
        pruner: None for no pruning.
        content: What two starts of one search have to agree on.

    Raises:
        SweepError: The storage can't be used, or holds another search under this name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # of an earlier study it would say what is said here
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_place(storage),
            direction="minimize",
            pruner=optuna.pruners.NopPruner() if pruner is None else instantiate(pruner),
            load_if_exists=True,
        )
        known = study.user_attrs.get(SEARCH)
        if known is None:
            study.set_user_attr(SEARCH, dict(content))
    except (ArgumentError, SQLAlchemyError, ImportError) as error:
        raise SweepError(
            f"hydra.sweeper.storage={shown(storage)} can't be used: {str(error).splitlines()[0]}. Expected "
            "sqlite:///<file>, or postgresql://... with its driver installed (pip install psycopg2-binary)."
        ) from error
    if known is not None and known != dict(content):
        raise SweepError(
            f"hydra.sweeper.storage={shown(storage)} holds another search under the name {name}: "
            f"{_differences(known, content)}. Its losses don't compare with those of this one. Search under another "
            "name (hydra.sweeper.study_name=...), or with the options of that one to go on with it."
        )
    study.sampler = instantiate(_moved(sampler, len(study.trials)))
    return study


def shown(storage: str | None) -> str:
    """A storage's URL for people, without its password."""
    try:
        return "null" if storage is None else make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return str(storage)


def enqueue_lost(study: optuna.Study) -> int:
    """Have trials that were cut off or failed tried again, before any new one; returns how many."""
    retried = {trial.user_attrs.get(AGAIN) for trial in study.trials}
    lost = [trial for trial in study.trials if trial.state in (TrialState.RUNNING, TrialState.FAIL) and trial.params]
    again = [trial for trial in lost if trial.number not in retried]
    for trial in again:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    return len(again)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that brought a loss, or were pruned."""
    return study.get_trials(deepcopy=False, states=OVER)


def check_images(study: optuna.Study, fingerprint: str | None) -> None:
    """Hold the images of a trial's run against those of the trials before.

    Raises:
        SweepError: They have changed.
    """
    known = study.user_attrs.get(IMAGES)
    if known is None and fingerprint is not None:
        study.set_user_attr(IMAGES, fingerprint)
    elif fingerprint not in (None, known):
        raise SweepError(
            f"The images are not those that the search {study.study_name} began with, so its losses don't compare. "
            "Search anew, under another name: hydra.sweeper.study_name=... ."
        )


def _place(storage: str | None) -> str | None:
    """The URL, the folder of an SQLite file made."""
    if storage is not None:
        url = make_url(storage)
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    return storage


def _moved(sampler: DictConfig, trials: int) -> DictConfig:
    moved = OmegaConf.create(OmegaConf.to_container(sampler, resolve=True))
    assert isinstance(moved, DictConfig)
    if moved.get("seed") is not None:
        moved.seed += trials
    return moved


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What two searches say differently."""
    said = []
    for name in sorted({*there["varied"], *here["varied"]}):
        one, other = (content["varied"].get(name, "not searched") for content in (there, here))
        if one != other:
            said.append(f"{name} ({one} there, {other} here)")
    said += [f"{text} (there alone)" for text in there["fixed"] if text not in here["fixed"]]
    said += [f"{text} (here alone)" for text in here["fixed"] if text not in there["fixed"]]
    return ", ".join(said)
