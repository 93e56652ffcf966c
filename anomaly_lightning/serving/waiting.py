"""Waiting for the jobs of a request: until they are done, the time is up, or the client has gone."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request

from anomaly_lightning.serving.admission import Ticket
from anomaly_lightning.serving.problems import Problem

T = TypeVar("T")
CLIENT_GONE = 499  # nginx's number; nobody reads it but the metrics


async def outcomes(
    futures: "Sequence[Future[T]]", request: Request, ticket: Ticket, timeout_s: float
) -> list[T | BaseException]:
    """What each job returned or raised; jobs that nobody waits for any more and that have not begun are dropped.

    Raises:
        Problem: 504 after `timeout_s` seconds since the request came; 499 where its client has gone.
    """
    waiting: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
    left = max(0.0, ticket.since + timeout_s - time.perf_counter())
    try:
        await asyncio.wait({waiting, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            results: list[T | BaseException] = waiting.result()
            return results
        if gone.done():
            raise Problem(CLIENT_GONE, "The client has gone.")
        raise Problem(504, f"Not done within {timeout_s:g} s: the machine is too slow for what is asked of it.")
    finally:
        gone.cancel()
        waiting.add_done_callback(_forget)
        waiting.cancel()  # which cancels the jobs that have not begun


def _forget(waiting: "asyncio.Future[Any]") -> None:
    """Look at the cancellation, or asyncio's log complains that nobody did."""
    if not waiting.cancelled():
        waiting.exception()


async def _gone(request: Request) -> None:
    """Return when the client closes its connection; the request's body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
