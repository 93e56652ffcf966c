"""Limits on what is sent, as ASGI middleware: bytes and seconds of a request's body."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomaly_lightning.serving.problems import Problem


class UploadLimits:
    """Holds every request's body against its limits while it is being read.

    Args:
        app: What reads it: a body beyond the limits raises `Problem` 413 or 408 there.
        max_bytes: Most bytes of a body.
        seconds: Time for a body to arrive.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a guarded `receive`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = _Upload(scope, receive, self.max_bytes, self.seconds)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await upload.discard()
            await send(message)

        await self.app(scope, upload.receive, answer)


class _Upload:
    """The body of one request on its way in."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        self._declared = int(declared) if declared.isdecimal() else 0
        self._waits = "100-continue" in headers.get("expect", "").lower()  # sends nothing before it is asked to
        self._receive, self._max_bytes, self._seconds = receive, max_bytes, seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._bytes, self._begun = 0, False
        self._ended = scope["method"] in ("GET", "HEAD") and not self._declared

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part; after the last, what the server has to say."""
        if self._ended:
            return await self._receive()
        if self._declared > self._max_bytes:
            raise self._too_large(self._declared)
        message = await self._part()
        if self._bytes > self._max_bytes:
            raise self._too_large(self._bytes)
        return message

    async def discard(self) -> None:
        """Read the rest and forget it: most clients don't listen before they have sent all, and lose the answer."""
        try:
            while not self._ended and (self._begun or not self._waits) and self._bytes <= 2 * self._max_bytes:
                await self._part()
        except Problem:
            self._ended = True

    async def _part(self) -> MutableMapping[str, Any]:
        self._begun = True
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise Problem(408, f"The body did not arrive within {self._seconds:g} s.") from error
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    def _too_large(self, came: int) -> Problem:
        return Problem(413, f"Expected at most {self._max_bytes} bytes (max_mb), got {came} or more.")
