"""What every command line shares: where the configs are, and how a user's mistake is told.

Hydra itself rejects mistyped groups, keys and options; this file turns our own `UserError` into the same short form.
"""

import errno
import functools
import gc
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.configs import claim_folders, in_sweep, known_to_hydra, run_names
from anomaly_lightning.errors import MissingExtraError, UsedFolderError, UserError
from anomaly_lightning.interruption import Work, interruptible, leads
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.reports.run_folder import FAILURE_FILE, write_failure
from anomaly_lightning.runtime.allocator import keep_freed_memory
from anomaly_lightning.words import as_typed

# An idle OpenMP thread that spins for long makes a single forward many times slower where another process wants the
# core; one that sleeps at once costs a fourth of the speed where nothing else runs. So it spins for a few microseconds
# where the runtime is GNU's, and not at all elsewhere. Read when torch is imported, hence here, before any command
# imports it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


# New objects after which the garbage collector looks for cycles. Importing torch makes a million that all stay; to look
# through them after every 700 takes a sixth of a command's start.
COLLECT_AFTER = 50_000


class CommandError(CompactHydraException):
    """A user's mistake, printed by Hydra as its text alone; HYDRA_FULL_ERROR=1 shows the traceback."""


# What a disk says when it does not take any more, and what a user can do about it.
DISK_TROUBLE = {
    errno.ENOSPC: "there is no space left. Make room there, or write elsewhere",
    errno.EDQUOT: "your quota is used up. Make room there, or write elsewhere",
    errno.EROFS: "this file system is read-only. Write elsewhere",
    errno.EACCES: "you have no permission. Change the permissions, or write elsewhere",
    errno.EPERM: "this is not permitted. Change the permissions, or write elsewhere",
}


def disk_trouble(error: OSError) -> str:
    """One paragraph for an error of a disk: where, what, and what to do."""
    where = " ".join(str(name) for name in (error.filename, error.filename2) if name) or "the output or cache folder"
    what = DISK_TROUBLE.get(error.errno or 0, f"{error.strerror or error}. Write elsewhere")
    return (
        f"{where}: {what} (hydra.run.dir=<folder> moves the outputs of a run, cache.dir= or $ANOMALY_CACHE the cache). "
        "What was written before this stays as it is."
    )


class OutputFolder(Callback):
    """Looks at and makes the folder of a run before Hydra writes into it."""

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Refuse or clear a used folder, and make a new one, which Hydra would answer with a stack trace at times."""
        try:
            with known_to_hydra(config):  # the folder's name asks for it
                folder = Path(str(OmegaConf.select(config, "hydra.run.dir")))
                if leads():
                    claim_folders(config, folder, str(config.hydra.job.config_name))
                folder.mkdir(parents=True, exist_ok=True)
        except (OSError, UserError) as error:
            words = disk_trouble(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            sys.stderr.write(f"{words}\n")
            raise SystemExit(1) from error  # any other exception of a callback becomes a warning of Hydra's


# What each extra brings, by some of its modules: looked for before anything is composed, which needs them, too.
TRAIN = ("torch", "torchvision", "pytorch_lightning", "timm", "scipy", "matplotlib", "jinja2", "pooch", "requests")
EXTRAS = {
    "train": TRAIN,
    "export": (*TRAIN, "onnx", "onnxscript"),
    "upkeep": ("scipy",),
    "serve": ("fastapi", "fastapi_offline", "uvicorn", "python_multipart", "prometheus_client"),
}


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _one_of_many(run: Callable[[DictConfig], object], cfg: DictConfig) -> object:
    """Run one job of a sweep; a failure becomes a row of the leaderboard and leaves the other jobs alone."""
    failure = Path(cfg.run_dir) / FAILURE_FILE
    failure.unlink(missing_ok=True)  # of an earlier start in the same folder
    try:
        return run(cfg)
    except UsedFolderError as error:  # nothing of it may be written there: what lies there is another run's
        raise CommandError(f"{type(error).__name__}: {error}") from error
    except Exception as error:
        # The stack of a user's own mistake tells them nothing; of any other error it is all there is.
        stack = not isinstance(error, UserError) or os.environ.get("HYDRA_FULL_ERROR") == "1"
        logging.getLogger(__name__).error("This run of the sweep failed: %s", error, exc_info=stack)
        names = run_names(cfg, HydraConfig.get().runtime.choices)
        write_failure(failure.parent, names, f"{type(error).__name__}: {error}")
        return None  # which a sweeper counts as a failed trial


Run = Callable[[DictConfig], object]


def _told(run: Run, cfg: DictConfig) -> object:
    """Run, with what is a user's to mend told in a paragraph."""
    try:
        return run(cfg)
    except UserError as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        raise CommandError(disk_trouble(error)) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise CommandError(f"{type(error.__cause__).__name__}: {error.__cause__}") from error
        raise


def command(
    config_name: str, extra: str | None = "train", configs: Path = CONFIG_DIR, modules: Sequence[str] | None = None
) -> Callable[[Run], Callable[[], None]]:
    """Make a function of a composed config a command line with Hydra's syntax.

    Args:
        config_name: Name of the command, and of its primary config in `configs`, without suffix.
        extra: What has to be installed beside the base; None = nothing.
        configs: Folder of the primary config and of the groups that it takes.
        modules: What of the extra is needed; None = all.
    """

    def decorate(run: Run) -> Callable[[], None]:
        @functools.wraps(run)
        def main() -> None:
            keep_freed_memory()
            gc.set_threshold(COLLECT_AFTER)
            needed = EXTRAS.get(extra or "", ()) if modules is None else modules
            lacking = [module for module in needed if not _installed(module)]
            if extra and lacking:
                raise SystemExit(f"{MissingExtraError(config_name, lacking[0], extra)}")
            typed = sys.argv[1:]
            work = Work(Path(inspect.getfile(run)).stem, typed)  # benchmark has two configs

            @functools.wraps(run)
            def guarded(cfg: DictConfig) -> object:
                if missing := sorted(OmegaConf.missing_keys(cfg)):
                    raise CommandError(f"There is no default for {', '.join(missing)}: set {missing[0]}=... .")
                sys.argv[1:] = typed  # for run.json, and for the further processes of a data-parallel run
                work.sweep, work.folder = in_sweep(), _folder(cfg)
                return _one_of_many(run, cfg) if work.sweep else _told(run, cfg)

            with interruptible(work):
                try:
                    sys.argv = [f"anomaly_lightning.{config_name}", *as_typed(config_name, typed)]
                except UserError as error:
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")
                    raise SystemExit(1) from error
                try:
                    hydra.main(version_base="1.3", config_path=str(configs), config_name=config_name)(guarded)()
                except SystemExit:
                    sys.stderr.write(_own_category(configs / f"{config_name}.yaml", typed))
                    raise

        return main

    return decorate


def _own_category(config: Path, words: Sequence[str]) -> str:
    """What to type for a category that conf/ does not have: Hydra lists those that it has. Else nothing."""
    if not re.search(r"^  - (category|train)\b", config.read_text(encoding="utf-8"), re.MULTILINE):
        return ""  # this command chooses none
    known = {file.stem for file in (CONFIG_DIR / "category").glob("*.yaml")}
    given = [word.partition("=")[2] for word in words if word.startswith("category=")]
    own = [name for value in given for name in value.split(",") if re.fullmatch(r"[\w.-]+", name) and name not in known]
    if not own:
        return ""
    return f"For images of your own in <root>/{own[0]}: category=custom category.name={own[0]} data.root=<root>\n"


def _folder(cfg: DictConfig) -> Path | None:
    """Where a command leaves its outputs, where it has such a place."""
    given = cfg.get("run_dir") or cfg.get("output")
    return None if given is None else Path(str(given))
