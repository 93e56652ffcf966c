"""Fetch one file over HTTP: goes on where a broken connection left off, and believes nothing that it can check."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from anomaly_lightning.errors import DataError

CHUNK = 2**18
_DROPPED = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, urllib.error.URLError)


@dataclass(frozen=True)
class Connection:
    """How patient to be.

    Attributes:
        tries: Connections in a row without a new byte before giving up.
        timeout_s: Seconds of silence before a connection counts as dropped.
        wait_s: Seconds before the second try, doubled at each one after.
        max_bytes: A larger file is refused.
    """

    tries: int = 5
    timeout_s: float = 30.0
    wait_s: float = 1.0
    max_bytes: int = 10_000_000_000


class AddressError(DataError):
    """Nothing can be had from this address: the server says so, or can't be reached."""


def fetch(
    address: str, target: Path, connection: Connection, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Fetch a file; what came stays in `<target>.part` when it fails, and the next call goes on from there.

    Args:
        address: http or https.
        target: Where the whole file goes, at once, when it is complete.
        connection: How patient to be.
        progress: Called with the bytes that are there and the bytes in all, None where the server does not say.

    Raises:
        AddressError: Not found, forbidden, gone, a redirection that leads nowhere, or the connection kept breaking.
        DataError: No http address, too large, or the disk is full.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise DataError(f"{address!r}: expected an address that starts with https:// or http://.")
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, why, most = 0, "", _size(part)
    while failures < connection.tries:
        try:
            if _attempt(address, part, connection, progress or _silent):
                part.replace(target)
                _validator(part).unlink(missing_ok=True)
                return
            why = f"the connection ended after {_size(part)} bytes"
        except _DROPPED as error:
            why = _words(address, error)
            if isinstance(error, urllib.error.HTTPError) and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # what is there does not belong to what the server has
        except OSError as error:
            raise DataError(f"{part} can't be written: {error}. Free some space; the next call goes on.") from error
        # Only what was never had before counts as progress: a lying server could else keep us busy for ever.
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        time.sleep(connection.wait_s * 2**failures if failures else 0)
    raise AddressError(f"{address} failed {failures} times in a row: {why}. What came is kept; the next call goes on.")


def _attempt(address: str, part: Path, connection: Connection, progress: Callable[[int, int | None], None]) -> bool:
    """Add what one connection gives to the part; whether the file is complete then."""
    start = _size(part)
    with _opener().open(_request(address, part, start), timeout=connection.timeout_s) as response:
        goes_on = response.status == http.client.PARTIAL_CONTENT
        first, total = _span(response, goes_on)
        if goes_on and first != start:
            part.unlink()  # the server sent another piece than was asked for
            return False
        here = start if goes_on else 0
        _validator(part).write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        with part.open("ab" if goes_on else "wb") as file:
            for block in _blocks(response):
                here += len(block)
                if max(here, total or 0) > connection.max_bytes:
                    part.unlink()
                    raise DataError(
                        f"{address} sends more than {connection.max_bytes / 1e9:g} GB; that is no category."
                    )
                file.write(block)
                progress(here, total)
    return total is None or here == total


def _request(address: str, part: Path, start: int) -> urllib.request.Request:
    """Ask for the rest only where the server can tell that the file is still the same."""
    validator = _validator(part).read_text() if _validator(part).is_file() else ""
    if not start or not validator or validator.startswith("W/"):
        return urllib.request.Request(address)
    return urllib.request.Request(address, headers={"Range": f"bytes={start}-", "If-Range": validator})


def _span(response: http.client.HTTPResponse, goes_on: bool) -> tuple[int, int | None]:
    """First byte that the response holds, and the bytes of the whole file where they are known."""
    if not goes_on:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return int(first) if first.isdigit() else -1, int(total) if total.isdigit() else None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := response.read(CHUNK):
        yield block


def _words(address: str, error: Exception) -> str:
    """What a failure that may pass says; one that will not pass is raised as `AddressError`."""
    if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 416, 429):
        raise AddressError(f"{address} answers {error.code} {error.reason}: the address is dead.") from error
    return str(error) or type(error).__name__


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not from https to anything less."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("https", "http")
        if urlsplit(newurl).scheme not in allowed:
            raise urllib.error.HTTPError(req.full_url, code, f"and leads to {newurl}, which is not safe", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoDowngrade)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _validator(part: Path) -> Path:
    """Where the server's mark of the file's version is kept beside the part."""
    return part.with_name(f"{part.name}.version")


def _silent(here: int, total: int | None) -> None:
    """Tell nobody."""
