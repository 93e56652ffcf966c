"""MVNet's categories from their publisher: pooch fetches, and tarfile's data filter keeps all in one folder."""

import lzma
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import pooch
from requests import RequestException, Response
from rich.console import Console
from rich.prompt import Confirm

from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in

_BROKEN = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)
_DISK = (ENOSPC, EDQUOT, EROFS, EACCES, EPERM)


def download(wanted: Mapping[str, Any], console: Console) -> list[Path]:
    """Fetch and unpack the categories that are not there yet.

    Args:
        wanted: What conf/download/download.yaml holds, as plain values.
        console: Where progress is reported.

    Returns:
        The category folders that are there now.

    Raises:
        DataError: Unknown category, licence not accepted, dead address, wrong checksum, damaged or unsafe archive.
    """
    names, chosen, root = list(wanted["archives"]), str(wanted["category"]), Path(wanted["root"]).expanduser()
    if chosen not in ("all", *names):
        raise DataError(f"category={chosen}: expected all or one of {', '.join(names)}.")
    folders = [root / name for name in (names if chosen == "all" else [chosen])]
    missing = [folder for folder in folders if not folder.exists()]
    if missing:
        _accept_license(wanted, [folder.name for folder in missing], console)
    for folder in folders:
        if folder not in missing:
            console.print(f"{folder} is there already; remove it to fetch it again.", markup=False)
            continue
        try:
            _get(wanted, folder, console)
        except OSError as error:
            raise DataError(f"{folder} can't be written: {error}. Fix that and call again.") from error
        console.print(f"{folder} is there.", markup=False)
    return folders


def _accept_license(wanted: Mapping[str, Any], names: list[str], console: Console) -> None:
    size = sum(wanted["archives"][name]["megabytes"] for name in names)
    what = f"{', '.join(names)}: about {size} MB. Licence: {wanted['license']} ({wanted['page']})."
    console.print(what, markup=False)
    accepted = wanted["accept_license"]
    if accepted is None and sys.stdin.isatty():
        accepted = Confirm.ask("Do you accept the licence?", console=console, default=False)
    if accepted is not True:
        raise DataError(f"The licence {wanted['license']} was not accepted. Read it, then set accept_license=true.")


def _get(wanted: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Fetch one category, or take the archive that is there, and unpack it."""
    if wanted["archive"] is not None:
        unpack(Path(wanted["archive"]).expanduser(), folder, **wanted["limits"])
        return
    archive = _fetch(wanted, folder, console)
    try:
        unpack(archive, folder, **wanted["limits"])
    except DataError:
        archive.unlink()  # kept, it would fail again at each call
        raise
    if not wanted["keep_archive"]:
        archive.unlink()


def _fetch(wanted: Mapping[str, Any], folder: Path, console: Console) -> Path:
    """Archive of one category in `<root>/.download`, fetched unless an earlier call left it there."""
    one, name = wanted["archives"][folder.name], f"{folder.name}.tar.xz"
    address, sha256 = one["address"], one["sha256"]
    pooch.get_logger().setLevel("WARNING")  # its advice is for programmers
    checks = {"response": partial(_refuse, address, wanted["limits"]["gigabytes"])}
    fetcher = pooch.HTTPDownloader(True, 2**18, timeout=wanted["timeout_s"], hooks=checks)
    try:
        archive = Path(pooch.retrieve(address, sha256, name, folder.parent / ".download", downloader=fetcher))
    except (RequestException, ValueError) as error:  # ValueError: another checksum
        raise DataError(f"{address} can't be fetched: {error}. {_by_hand(wanted, folder.name)}") from error
    if sha256 is None:
        console.print(f"No checksum of {name} is known; this one has sha256 {pooch.file_hash(str(archive))}.")
    return archive


def _refuse(address: str, gigabytes: float, response: Response, **_: object) -> None:
    """Refuse an answer that left https on its way, or that claims to be larger than any category."""
    if address.startswith("https:") and not response.url.startswith("https:"):
        raise RequestException(f"it leads to {response.url}, which is not safe")
    if int(response.headers.get("Content-Length", 0)) > gigabytes * 1e9:
        raise RequestException(f"it sends more than {gigabytes:g} GB (limits.gigabytes)")


def _by_hand(wanted: Mapping[str, Any], name: str) -> str:
    whole = wanted["whole"]
    return (
        f"Call again if the connection broke. By hand: open {wanted['page']}, fetch the archive of {name}, or that of "
        f"all from {whole['address']} ({whole['megabytes']} MB, sha256 {whole['sha256']}), then run "
        f"python -m anomaly_lightning.download category={wanted['category']} root={wanted['root']} archive=<the file>. "
        f"Or set the new address: archives.{name}.address=https://..."
    )


def unpack(archive: Path, folder: Path, gigabytes: float, files: int) -> None:
    """Unpack one category's folder of a tar archive (plain, xz, gzip or bzip2); it is there whole or not at all.

    Args:
        archive: It must hold `<name of folder>/train/good/`; other categories in it are passed over.
        folder: What the category becomes.
        gigabytes: Limit on what is unpacked, in 1e9 bytes, of all that is in the archive.
        files: Limit on the number of entries.

    Raises:
        DataError: No, damaged or truncated archive, an unsafe entry, too much in it, or another category.
        OSError: The disk is full or may not be written.
    """
    aside = folder.parent / ".download"
    aside.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=aside) as place, tarfile.open(archive) as tar:
            tar.extractall(place, members=_members(tar, folder.name, gigabytes, files), filter="data")
            while tar.fileobj is not None and tar.fileobj.read(2**20):
                pass  # to the checksum at the end of the compressed stream
            unpacked = Path(place, folder.name)
            if not images_in(unpacked / "train" / GOOD):
                raise tarfile.TarError(f"it holds no images in {folder.name}/train/{GOOD}")
            unpacked.rename(folder)
    except _BROKEN as error:
        raise DataError(f"{archive} is no archive of {folder.name}, damaged or truncated: {error}.") from error
    except OSError as error:
        if error.errno in _DISK:
            raise
        raise DataError(f"{archive} can't be unpacked into {folder}: {error}.") from error


def _members(tar: tarfile.TarFile, name: str, gigabytes: float, files: int) -> Iterator[tarfile.TarInfo]:
    """Entries of one category; all are counted."""
    total = 0
    for number, member in enumerate(tar, start=1):
        total += member.size
        if number > files or total > gigabytes * 1e9:
            raise tarfile.TarError(f"it holds more than {files} files or {gigabytes:g} GB (limits.files, .gigabytes)")
        if PurePosixPath(member.name).parts[:1] == (name,):
            yield member
