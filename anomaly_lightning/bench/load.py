"""Clients that ask a service as fast as it answers, each waiting for its answer before it asks again."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from anomaly_lightning.errors import UserError


@dataclass
class Load:
    """What clients met.

    Attributes:
        answered: Seconds from a request to its answer, one for each that was answered.
        waited: Seconds from an image's first request to its answer, refusals and pauses included.
        refused: Answers 429.
        seconds: How long it took, from the first request to the last answer.
    """

    answered: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0


def drive(port: int, images: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Ask a service on this machine from so many clients for so many seconds.

    Args:
        port: Of the service, on 127.0.0.1.
        images: Contents of files that take turns.
        clients: Threads, each with a connection of its own.
        seconds: After them no client asks for a new image; what was asked is waited for.

    Raises:
        UserError: An answer other than 200 and 429.
    """
    load, lock, turn = Load(), threading.Lock(), itertools.cycle(images)
    start = time.perf_counter()
    failures: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < start + seconds and not failures:
            with lock:
                body = next(turn)
            try:
                answered, waited, refused = _one(connection, body)
            except (UserError, OSError, http.client.HTTPException) as error:
                failures.append(str(error))
                break
            with lock:
                load.answered.append(answered)
                load.waited.append(waited)
                load.refused += refused
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise UserError(f"The service failed under {clients} clients: {failures[0]}")
    load.seconds = time.perf_counter() - start
    return load


def _one(connection: http.client.HTTPConnection, body: bytes) -> tuple[float, float, int]:
    """Seconds of the request that was answered, seconds of all that it took, refusals before."""
    first, refused = time.perf_counter(), 0
    while True:
        asked = time.perf_counter()
        connection.request("POST", "/v1/inspect", body, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        text, now = answer.read(), time.perf_counter()
        if answer.status == 200:
            return now - asked, now - first, refused
        if answer.status != 429:
            raise UserError(f"{answer.status}: {text.decode()}")
        refused += 1
        time.sleep(json.loads(text)["retry_after_s"])
