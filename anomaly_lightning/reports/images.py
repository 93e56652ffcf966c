"""Images as pages carry them: small WebP files inside the page."""

import base64
import io

from PIL import Image


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H, W) shrunk so that the long side is at most `side` pixels."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """An image whose long side is at most `side` pixels."""
    height, width = fitted((image.height, image.width), side)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BOX)


def webp(image: Image.Image, lossless: bool = False) -> bytes:
    """WebP file of an image."""
    stream = io.BytesIO()
    # For lossless files quality is effort alone; these settings are the knee of time against size.
    image.save(stream, "WEBP", quality=30 if lossless else 80, method=1 if lossless else 2, lossless=lossless)
    return stream.getvalue()


def data_url(content: bytes) -> str:
    """A WebP file as an address that carries the file itself."""
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
