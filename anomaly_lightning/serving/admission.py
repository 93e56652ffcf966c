"""A bounded queue of work: what does not fit is refused at once, and what was taken is done.

A place is taken when a request arrives, before its body is read, so that waiting requests can't fill the memory. It
is given back when the work is over, not when the client stops waiting.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from anomaly_lightning.serving.problems import Problem

T = TypeVar("T")
SMOOTHING = 0.1  # weight of the newest job in the mean duration


class WorkQueue:
    """Runs jobs in threads, at most `capacity` inside at once.

    Args:
        workers: Threads.
        capacity: Images that wait or are worked on.
    """

    def __init__(self, workers: int, capacity: int) -> None:
        self.workers, self.capacity = workers, capacity
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="inspect")
        self._lock, self._inside, self._mean_s = threading.Lock(), 0, 0.1

    @property
    def length(self) -> int:
        """Places that are taken."""
        return self._inside

    def admit(self) -> "Ticket":
        """Take one place; raises `Problem` 429 where there is none."""
        self.take(1)
        return Ticket(self)

    def take(self, count: int) -> None:
        """Take places, all or none; raises `Problem` 429 where there are not as many."""
        with self._lock:
            if self._inside + count <= self.capacity:
                self._inside += count
                return
        raise self._full()

    def give(self, count: int) -> None:
        """Give places back."""
        with self._lock:
            self._inside -= count

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Start a job for which a place was taken; the place is given back when the job is done or cancelled."""
        future = self._pool.submit(self._timed, job)
        future.add_done_callback(lambda _: self.give(1))
        return future

    def close(self) -> None:
        """Finish what was taken, and end the threads."""
        self._pool.shutdown(wait=True)

    def _timed(self, job: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return job()
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self._mean_s += SMOOTHING * (spent - self._mean_s)

    def _full(self) -> Problem:
        """Says when to come back: at a random moment around the time that emptying the queue takes.

        One number for all would bring them back together, and the same ones would lose each time.
        """
        seconds = self._mean_s * self.capacity / self.workers * random.uniform(0.5, 1.5)
        return Problem(
            429,
            f"The queue is full: {self.capacity} images are inside. Try again in {seconds:.2f} s.",
            headers={"Retry-After": str(math.ceil(seconds))},  # whole seconds, RFC 9110, 10.2.3
            extra={"retry_after_s": round(seconds, 3)},
        )


class Ticket:
    """A request's places: one while it is read, then one for each of its jobs. A context that gives back the first."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue, self._unused, self.since = queue, True, time.perf_counter()

    def submit(self, jobs: Sequence[Callable[[], T]]) -> "list[Future[T]]":
        """Start all jobs, once; raises `Problem` 429, and starts none, where there are not enough places."""
        self._queue.take(len(jobs) - 1)
        self._unused = False
        return [self._queue.submit(job) for job in jobs]

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._unused:
            self._queue.give(1)
