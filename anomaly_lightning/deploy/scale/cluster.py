"""engine=ray: the parts of a job as rows of a Ray Data set, mapped by a pool of actors with an inspector each."""

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

# Read when ray is imported. Nothing of anybody's use goes anywhere; of its own log, only what ends it is shown.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError
from ray.util.annotations import RayDeprecationWarning

from anomaly_lightning import __version__
from anomaly_lightning.deploy.scale.done import Keys
from anomaly_lightning.deploy.scale.model import Travelling
from anomaly_lightning.deploy.scale.scorer import Job, Scorer, Tally
from anomaly_lightning.errors import UserError
from anomaly_lightning.runtime.allocator import keep_freed_memory

DEATHS = 20  # of workers at one part, after which it is the part that is to blame
QUEUED = 2  # parts that an actor has at once, the one that it works on included
STORE_MB = 128  # of a local Ray's object store beside model and keys: the parts' numbers and tallies are small


class Pool(msgspec.Struct, frozen=True):
    """What the cluster is asked for.

    Attributes:
        address: Of a cluster; None = $RAY_ADDRESS, and without it a local Ray that is started and stopped.
        actors: How many; None = as many as the cluster has cores for.
        threads: Cores of each.
        gpus: Of each; may be a fraction.
    """

    address: str | None
    actors: int | None
    threads: int
    gpus: float


class Actor:
    """One inspector, and a scorer with it.

    Args:
        model: Reference to a `Travelling` in the object store, of which each node holds one copy.
        done: Reference to the keys, which the actors of a node share in memory.
        job: What is asked for.
        version: Of the package where the job was started.
    """

    def __init__(self, model: Any, done: Any, job: Job, version: str) -> None:
        if version != __version__:
            raise UserError(f"This node has anomaly_lightning {__version__}, the job was started by {version}.")
        keep_freed_memory()
        self._scorer = Scorer(ray.get(model).inspector(), job, ray.get(done))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do the parts of one batch, of which there is one."""
        return {"tally": [msgspec.json.encode(self._scorer(int(number))) for number in batch["part"]]}


@contextmanager
def connected(pool: Pool, megabytes: int) -> Iterator[int]:
    """A connection to Ray, and how many actors there are to be.

    Raises:
        UserError: There is no cluster at the address, or it is too small.
    """
    address = pool.address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _join(pool, address, megabytes)
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray puts its own in their place
        yield _actors(pool, address)
    finally:
        ray.shutdown()


def _join(pool: Pool, address: str | None, megabytes: int) -> None:
    """Connect to a cluster, or start one of this machine alone."""
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
            return
        cores = (pool.actors or max(1, (os.cpu_count() or 1) // pool.threads)) * pool.threads
        # "local": without it a Ray that somebody else has started on this machine would be taken.
        store = (STORE_MB + 2 * megabytes) * 2**20
        ray.init("local", num_cpus=cores, object_store_memory=store, include_dashboard=False, **quiet)
    except Exception as error:  # what it raises where one of its processes does not come up has no class of its own
        where = f"There is no Ray cluster at ray.address={address}" if address else "Ray could not be started here"
        raise UserError(f"{where}: {error}") from error


def _actors(pool: Pool, address: str | None) -> int:
    there = ray.cluster_resources()
    fit = int(there.get("CPU", 0) // pool.threads)
    if pool.gpus:
        fit = min(fit, int(there.get("GPU", 0) / pool.gpus))
    wanted = pool.actors or fit
    if not 0 < wanted <= fit:
        raise UserError(
            f"ray.actors={wanted} of {pool.threads} core(s) and {pool.gpus:g} GPU(s) each: the cluster at "
            f"{address or 'this machine'} has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, enough "
            f"for {fit}. Ask for fewer (ray.actors, ray.threads, ray.gpus)."
        )
    return wanted


def on_cluster(pool: Pool, actors: int, model: Travelling, job: Job, done: Keys, parts: int) -> Iterator[Tally]:
    """Tallies of all parts, in the order in which they end; within `connected`.

    Raises:
        UserError: Of a worker, or workers die again and again.
    """
    _quieten()
    held = ray.put(model), ray.put(done)  # to be held here until the end: a new actor asks for them
    # One block for each part, which an actor is given when it has nothing to do: what waits is a number.
    numbers = ray.data.from_items([{"part": number} for number in range(parts)], override_num_blocks=parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # no other way to bound the retries, until Ray 2.64
        results = numbers.map_batches(
            Actor,
            fn_constructor_args=(*held, job, __version__),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, parts), max_tasks_in_flight_per_actor=QUEUED),
            num_cpus=pool.threads,
            num_gpus=pool.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": DEATHS},
        )
    try:
        for row in results.iter_rows():
            yield msgspec.json.decode(row["tally"], type=Tally)
    except RayTaskError as error:
        cause = _root(error)
        raise (cause if isinstance(cause, UserError) else error) from error
    except RayError as error:
        raise UserError(f"Ray could not go on: {error}. The same command goes on from what is done.") from error


def _quieten() -> None:
    """Leave the progress of Ray Data, and what it says of its plan, to its own log file."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _root(error: BaseException) -> BaseException:
    """What an error that came from a worker began with there."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error
