"""Command line: fetch MVNet's categories, or unpack archives that were fetched by hand.

python -m anomaly_lightning.download category=leather|all root=data/mvnet
"""

import json
import sys
from pathlib import Path

import hydra
from filelock import FileLock
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.prompt import Confirm

from anomaly_lightning.cli import CommandError
from anomaly_lightning.data.archive import ArchiveError, unpack_category
from anomaly_lightning.data.fetch import AddressError, Connection, fetch
from anomaly_lightning.errors import DataError, UserError
from anomaly_lightning.places import CONFIG_DIR
from anomaly_lightning.runtime.files import content_hash

CHECKSUMS = "checksums.json"


def download(cfg: DictConfig, console: Console) -> list[Path]:
    """Fetch and unpack what the config names.

    Args:
        cfg: The composed conf/download/download.yaml.
        console: Where to tell what is done.

    Returns:
        The category folders that are there now.

    Raises:
        DataError: Unknown category, licence not accepted, dead address, wrong checksum, damaged or unsafe archive.
    """
    names = _chosen(cfg)
    root = Path(cfg.root).expanduser()
    missing = [name for name in names if not (root / name).exists()]
    for name in names:
        if name not in missing:
            console.print(f"{root / name} is there already; remove it to get it anew.", markup=False)
    if missing:
        _accept_license(cfg, missing, console)
        (root / ".download").mkdir(parents=True, exist_ok=True)
    for name in missing:
        with FileLock(root / ".download" / f"{name}.lock"):
            if not (root / name).exists():
                _get(cfg, root, name, console)
        console.print(f"{root / name} is there.", markup=False)
    return [root / name for name in names]


def _chosen(cfg: DictConfig) -> list[str]:
    names = [str(name) for name in cfg.archives]
    if cfg.category == "all":
        return names
    if cfg.category not in names:
        raise DataError(f"category={cfg.category}: expected all or one of {', '.join(names)}.")
    return [str(cfg.category)]


def _accept_license(cfg: DictConfig, names: list[str], console: Console) -> None:
    size = sum(cfg.archives[name].megabytes for name in names)
    what = f"{', '.join(names)}: about {size} MB. Licence: {cfg.license} ({cfg.page})."
    console.print(what, markup=False)
    accepted = cfg.accept_license
    if accepted is None and sys.stdin.isatty():
        accepted = Confirm.ask("Do you accept the licence?", console=console, default=False)
    if accepted is not True:
        raise DataError(f"The licence {cfg.license} was not accepted. Read it, then state accept_license=true.")


def _get(cfg: DictConfig, root: Path, name: str, console: Console) -> None:
    """Fetch one category, or take the archive that is there, check and unpack it."""
    by_hand = Path(cfg.archive).expanduser() if cfg.archive is not None else None
    if by_hand is not None and not by_hand.is_file():
        raise DataError(f"archive={by_hand}: there is no such file.")
    archive = by_hand or root / ".download" / f"{name}.tar.xz"
    if by_hand is None:
        _fetch(cfg, archive, name, console)
        _compare_checksum(archive, name, cfg.archives[name].sha256)
    try:
        unpack_category(archive, root, name, int(cfg.limits.gigabytes * 1e9), cfg.limits.files)
    except ArchiveError:
        # Kept, it would fail again at each call.
        if by_hand is None:
            archive.unlink(missing_ok=True)
        raise
    if by_hand is None and not cfg.keep_archive:
        archive.unlink()


def _fetch(cfg: DictConfig, archive: Path, name: str, console: Console) -> None:
    """Fetch an archive with a progress bar, unless it was kept."""
    if archive.is_file():
        return
    wish, max_bytes = cfg.connection, int(cfg.limits.gigabytes * 1e9)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        try:
            fetch(
                cfg.archives[name].address,
                archive,
                Connection(wish.tries, wish.timeout_s, wish.wait_s, max_bytes),
                lambda here, total: bar.update(task, completed=here, total=total),
            )
        except AddressError as error:
            raise DataError(f"{error} {_by_hand(cfg, name)}") from error


def _by_hand(cfg: DictConfig, name: str) -> str:
    return (
        f"By hand: open {cfg.page}, fetch the archive of {name}, or that of all from {cfg.whole.address} "
        f"({cfg.whole.megabytes} MB, sha256 {cfg.whole.sha256}), then run "
        f"python -m anomaly_lightning.download category={cfg.category} root={cfg.root} archive=<the file>. "
        f"Or state the new address: archives.{name}.address=https://..."
    )


def _compare_checksum(archive: Path, name: str, given: str | None) -> None:
    """Hold an archive against the given sha256, else against the one of the last fetch, which is recorded."""
    book = archive.parent / CHECKSUMS
    known = json.loads(book.read_text(encoding="utf-8")) if book.is_file() else {}
    expected, found = given or known.get(name), content_hash(archive)
    if expected is not None and found != expected:
        archive.unlink()
        source = f"archives.{name}.sha256" if given else f"the one recorded in {book}"
        raise DataError(
            f"The archive of {name} has sha256 {found}, but {source} is {expected}: it is damaged or was changed. "
            "It was deleted; fetch it anew, or correct the checksum if the change is known and wanted."
        )
    book.write_text(json.dumps({**known, name: found}, indent=2, sort_keys=True), encoding="utf-8")


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR / "download"), config_name="download")
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    try:
        download(cfg, Console())
    except UserError as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
