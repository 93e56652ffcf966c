"""What is wrong with a file that is no image, in words."""

import re
from pathlib import Path

from anomaly_lightning.errors import DataError

_MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
}
_TRUNCATED = ("truncated", "unrecognized data stream", "broken data stream", "not enough", "decoder error -2")


class ImageError(DataError):
    """A file that can't be read as an image.

    Attributes:
        path: The file.
        reason: Why not, without the path, in one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        shown = str(path) if str(path).isprintable() else repr(str(path))
        super().__init__(f"{shown}: {self.reason}")


class TooLargeError(ImageError):
    """An image of more pixels than are allowed, by its header: nothing of it has been decoded."""


def what_it_is(head: bytes) -> str:
    """What a file that no decoder takes seems to be, by its first bytes."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return f"truncated or damaged: starts like {name}, but its header can't be read"
    if not any(head):
        return "is no image: starts with zero bytes only"
    text = head.decode("utf-8", errors="ignore").strip()
    if text and all(c.isprintable() or c.isspace() for c in text):
        return f"is no image: text ({text[:40]!r})"
    return f"is no image of a known form: starts with bytes {head[:8].hex(' ')}"


def claimed_pixels(error: Exception | Warning) -> str:
    """Number of pixels that a header claims, by Pillow's words about a decompression bomb."""
    number = re.search(r"\d+", str(error))
    return number.group() if number else "too many"


def what_is_broken(error: Exception) -> str:
    """What a decoder's error says of the file."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, EOFError) or any(word in text.lower() for word in _TRUNCATED):
        return f"truncated: {text}"
    return f"damaged: {text}"
