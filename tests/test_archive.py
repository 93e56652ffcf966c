"""Archives of a category, good ones and evil ones."""

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from anomaly_lightning.data.archive import unpack_category
from anomaly_lightning.errors import DataError

GOOD = {"leather/train/good/000.png": b"image" * 100, "leather/license.txt": b"CC"}
LIMITS = {"max_bytes": 2_000_000, "max_files": 50}


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def pack(path: Path, *extra: tuple[tarfile.TarInfo, bytes], files: dict[str, bytes] = GOOD, form: str = "xz") -> Path:
    with tarfile.open(path, f"w:{form}") as tar:
        for info, content in [*(entry(name, content) for name, content in files.items()), *extra]:
            tar.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["xz", "gz", "bz2", ""])
def test_a_good_archive_is_unpacked(tmp_path, form):
    archive = pack(tmp_path / "a.tar", form=form)
    root = tmp_path / "root"
    assert unpack_category(archive, root, "leather", **LIMITS) == root / "leather"
    assert tree(root) == set(GOOD)
    assert (root / "leather/train/good/000.png").read_bytes() == b"image" * 100


def test_permissions_of_the_archive_are_not_taken_over(tmp_path):
    folder = entry("leather/test", kind=tarfile.DIRTYPE, mode=0o400)
    archive = pack(tmp_path / "a.tar", folder, entry("leather/test/good/1.png", b"x", mode=0o6000))
    unpack_category(archive, tmp_path, "leather", **LIMITS)
    assert (tmp_path / "leather/test").stat().st_mode & 0o700 == 0o700
    assert (tmp_path / "leather/test/good/1.png").stat().st_mode & 0o7600 == 0o600


def test_only_the_wanted_category_is_taken_from_the_archive_of_all(tmp_path):
    archive = pack(tmp_path / "a.tar", entry("tile/train/good/1.png", b"x"), entry("readme.txt", b"x"))
    unpack_category(archive, tmp_path / "root", "leather", **LIMITS)
    assert tree(tmp_path / "root") == set(GOOD)


EVIL = {
    "absolute": (entry("/tmp/evil.png", b"x"), "leads out"),
    "up": (entry("leather/../../evil.png", b"x"), "leads out"),
    "up elsewhere": (entry("tile/../../evil.png", b"x"), "leads out"),
    "backslash": (entry("leather\\..\\evil.png", b"x"), "leads out"),
    "drive": (entry("C:evil.png", b"x"), "leads out"),
    "symbolic link": (entry("leather/link", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "link or a device"),
    "hard link": (entry("leather/link", kind=tarfile.LNKTYPE, linkname="leather/license.txt"), "link or a device"),
    "pipe": (entry("leather/pipe", kind=tarfile.FIFOTYPE), "link or a device"),
    "device": (entry("leather/null", kind=tarfile.CHRTYPE), "link or a device"),
    "twice": (entry("leather/license.txt", b"other"), "can't be unpacked"),
    "file as folder": (entry("leather/license.txt/x.png", b"x"), "can't be unpacked"),
    "long name": (entry("leather/" + "x" * 300, b"x"), "can't be unpacked"),
    "large": (entry("leather/zeros", bytes(3_000_000)), "more than 0.002 GB"),
    "large elsewhere": (entry("tile/zeros", bytes(3_000_000)), "more than 0.002 GB"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_evil_entry_leaves_nothing_behind(tmp_path, kind):
    extra, words = EVIL[kind]
    archive = pack(tmp_path / "a.tar", extra)
    with pytest.raises(DataError, match=words):
        unpack_category(archive, tmp_path / "deep" / "root", "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}


def test_too_many_entries(tmp_path):
    files = GOOD | {f"leather/{i}.txt": b"" for i in range(50)}
    with pytest.raises(DataError, match="more than 50 entries"):
        unpack_category(pack(tmp_path / "a.tar", files=files), tmp_path / "root", "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}


def test_a_huge_extended_header_is_not_read(tmp_path):
    header, _ = entry("x", kind=tarfile.XHDTYPE)
    header.size = 2**30
    with lzma.open(tmp_path / "a.tar", "wb", preset=0) as file:
        file.write(header.tobuf())
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(DataError, match="header of"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", 2**40, 50)


@pytest.mark.parametrize("form", ["xz", "gz", ""])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
def test_truncated_archives(tmp_path, form, part):
    files = GOOD | {f"leather/test/good/{i}.png": bytes(range(256)) * 20 for i in range(20)}
    content = pack(tmp_path / "a.tar", files=files, form=form).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match="damaged or truncated"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", **LIMITS)
    assert tree(tmp_path) == {"a.tar"}


def test_a_plain_archive_cut_between_two_files(tmp_path):
    archive = pack(tmp_path / "a.tar", form="")
    archive.write_bytes(archive.read_bytes()[: 512 + 1024])
    with pytest.raises(DataError, match="no proper end"):
        unpack_category(archive, tmp_path / "root", "leather", **LIMITS)


def test_a_claim_that_is_too_large_is_refused_before_a_byte_is_written(tmp_path):
    claim, _ = entry("leather/zeros")
    claim.size = 3_000_000
    (tmp_path / "a.tar").write_bytes(claim.tobuf())
    with pytest.raises(DataError, match=r"more than 0.002 GB"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", **LIMITS)


def test_the_checksum_at_the_end_counts(tmp_path):
    content = bytearray(pack(tmp_path / "a.tar", form="gz").read_bytes())
    content[-6] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or truncated \(CRC check failed"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", **LIMITS)


def test_flipped_bytes_are_found_by_the_checksum(tmp_path):
    content = bytearray(pack(tmp_path / "a.tar").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="damaged or truncated"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", **LIMITS)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 100, bytes(5000)])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or truncated|holds no images"):
        unpack_category(tmp_path / "a.tar", tmp_path / "root", "leather", **LIMITS)


def test_the_archive_of_another_category(tmp_path):
    with pytest.raises(DataError, match="not the archive of tile"):
        unpack_category(pack(tmp_path / "a.tar"), tmp_path / "root", "tile", **LIMITS)
    assert not (tmp_path / "root" / "tile").exists()


def test_what_an_earlier_crash_left_is_cleared_away(tmp_path):
    litter = tmp_path / ".download" / "leather.unpacking" / "leather" / "train" / "good" / "999.png"
    litter.parent.mkdir(parents=True)
    litter.touch()
    unpack_category(pack(tmp_path / "a.tar"), tmp_path, "leather", **LIMITS)
    assert tree(tmp_path) == {*GOOD, "a.tar"}
