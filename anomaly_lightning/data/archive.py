"""Unpack a category's archive: nothing in it can do harm, and its folder is there whole or not at all."""

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from anomaly_lightning.data.samples import GOOD
from anomaly_lightning.errors import DataError
from anomaly_lightning.runtime.files import images_in

CHUNK = 2**20
# What tarfile reads at once is an extended header, as large as a file claims; a true one has some hundred bytes.
LARGEST_READ = 2**24
_OPENERS = ((b"\xfd7zXZ\0", lzma.open), (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open))
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


class ArchiveError(DataError):
    """The archive is at fault: damaged, unsafe, or of something else."""


def unpack_category(archive: Path, root: Path, name: str, max_bytes: int, max_files: int) -> Path:
    """Unpack one category's folder of a tar archive (plain, xz, gzip or bzip2).

    Only regular files and folders are unpacked, with fresh permissions; other categories in it are passed over.

    Args:
        archive: The archive; `<name>/train/good/` must be in it.
        root: Where `<name>` goes; it is renamed into place after the last file. Same file system as root/.download.
        name: The category.
        max_bytes: Limit on the unpacked bytes, of all that is in the archive.
        max_files: Limit on its number of entries.

    Returns:
        The category's folder, root / name.

    Raises:
        ArchiveError: Damaged or truncated archive, an entry that leads elsewhere or is a link or a device, a limit is
            exceeded, or the category is not in it. The folder is not there then.
        DataError: The disk is full or may not be written; no folder then, either.
    """
    aside = root / ".download" / f"{name}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _unpack(archive, aside, name, max_bytes, max_files)
        if not images_in(aside / name / "train" / GOOD):
            raise ArchiveError(f"{archive} holds no images in {name}/train/{GOOD}: it is not the archive of {name}.")
        (aside / name).rename(root / name)
    except _BROKEN as error:
        raise ArchiveError(f"{archive} is damaged or truncated ({error}); delete it and fetch it anew.") from error
    except OSError as error:
        if error.errno in _DISK:
            raise DataError(f"{root} can't be written: {error}. Fix that and call again; {archive} is kept.") from error
        raise ArchiveError(f"{archive} can't be unpacked into {root}: {error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root / name


class _Bounded:
    """Decompressed bytes of an archive: refuses to give too much at once or in all, remembers the last read."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._stream, self._max_bytes, self.last = stream, max_bytes, b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_READ:
            raise ArchiveError(f"An entry of the archive has a header of {size} bytes; it is no archive of images.")
        self.last = self._stream.read(size)
        if self._stream.tell() > self._max_bytes:
            raise ArchiveError(_too_much(self._max_bytes))
        return self.last

    def seek(self, position: int) -> int:
        if position > self._max_bytes:
            raise ArchiveError(_too_much(self._max_bytes))
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


def _too_much(max_bytes: int) -> str:
    return f"The archive holds more than {max_bytes / 1e9:g} GB; it is none of a category, or raise limits.gigabytes."


def _unpack(archive: Path, folder: Path, name: str, max_bytes: int, max_files: int) -> None:
    with _decompressed(archive) as stream:
        bounded, total = _Bounded(stream, max_bytes), 0
        with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
            for number, member in enumerate(tar, start=1):
                if number > max_files:
                    raise ArchiveError(
                        f"{archive} has more than {max_files} entries; raise limits.files if it is to be so."
                    )
                path = _safe(member, archive)
                total += member.size
                if total > max_bytes:
                    raise ArchiveError(_too_much(max_bytes))
                if path.parts and path.parts[0] == name:
                    _write(tar, member, folder / path)
        # tarfile takes a missing end for an end.
        if len(bounded.last) != tarfile.BLOCKSIZE or any(bounded.last):
            raise tarfile.ReadError("it has no proper end")
        while bounded.read(CHUNK):
            pass  # to the checksum at the end of the compressed stream


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        head = file.read(8)
    for magic, opener in _OPENERS:
        if head.startswith(magic):
            return opener(archive, "rb")  # type: ignore[return-value]
    return archive.open("rb")


def _safe(member: tarfile.TarInfo, archive: Path) -> PurePosixPath:
    """Relative path of an entry that is a file or folder and leads nowhere else."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name or "\0" in member.name:
        raise ArchiveError(
            f"{archive} has an entry that leads out of its folder: {member.name!r}. Nothing was unpacked."
        )
    if member.size < 0 or member.issparse() or not (member.isreg() or member.isdir()):
        raise ArchiveError(f"{archive} has an entry that is a link or a device: {member.name!r}. Nothing was unpacked.")
    return path


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write one entry as a new file; the archive's permissions, often read-only, are not taken over."""
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    with path.open("xb") as file:
        while source is not None and (block := source.read(CHUNK)):
            file.write(block)
