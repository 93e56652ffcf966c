"""Computes the features that a store lacks: decoding in threads, computing beside it, each content once."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_lightning.features.store import FeatureStore


class Filled(NamedTuple):
    """What `fill` did.

    Attributes:
        computed: Images that went through the backbone; 0 where the store had everything.
        failures: Error by position in `keys`, of the images that could not be loaded.
    """

    computed: int
    failures: dict[int, Exception]


def fill(
    store: FeatureStore,
    keys: Sequence[str],
    load: Callable[[int], Tensor],
    compute: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Filled:
    """Compute the features of those keys that the store lacks, and append them batch by batch.

    Two processes that want the same keys at the same time both compute them.
    While one batch is computed the next is decoded and the one before is written. What is in flight is bounded by
    three batches, whatever the number of keys. An image that can't be loaded does not stop the others; an error of
    `compute` or of the store does, and what was appended before stays.

    Args:
        store: Where the features go.
        keys: Content hash of each image; the same content is computed once.
        load: Position in `keys` -> image (3, H, W) float; called from several threads.
        compute: Images (B, 3, H, W) float -> features (B, C, h, w) float; called from this thread.
        batch_size: Images a batch; the last may be smaller.
        workers: Threads that load.
        on_progress: Called with (images done, images to do) after each batch and once before the first.

    Raises:
        CacheError: The store could not take the features.
    """
    missing = store.missing(keys)
    wanted = set(missing)
    first: dict[str, int] = {}  # position of each key that is wanted
    for position, key in enumerate(keys):
        if key in wanted:
            first.setdefault(key, position)
    failed: dict[str, Exception] = {}
    done = 0
    _report(on_progress, 0, len(missing))
    loaded = _loaded(load, first, workers, 2 * batch_size)
    with closing(loaded), ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for batch in _batches(loaded, batch_size):
            images = {key: image for key, image in batch if isinstance(image, Tensor)}
            failed.update((key, error) for key, error in batch if isinstance(error, Exception))
            if images:
                features = _features(compute, list(images.values()))
                if written is not None:
                    written.result()
                written = writer.submit(store.append, list(images), features)
            done += len(batch)
            _report(on_progress, done, len(missing))
        if written is not None:
            written.result()
    failures = {position: failed[key] for position, key in enumerate(keys) if key in failed}
    return Filled(len(missing) - len(failed), failures)


def _loaded(
    load: Callable[[int], Tensor], missing: dict[str, int], workers: int, ahead: int
) -> Generator[tuple[str, Tensor | Exception]]:
    """Each key with its image (3, H, W), or with the error of loading it, in order; at most `ahead` wait."""
    todo = iter(missing.items())
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = deque((key, pool.submit(load, position)) for key, position in islice(todo, ahead))
        try:
            while waiting:
                key, future = waiting.popleft()
                image = _result(future)
                waiting.extend((key, pool.submit(load, position)) for key, position in islice(todo, 1))
                yield key, image
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _result(future: "Future[Tensor]") -> Tensor | Exception:
    try:
        return future.result()
    except Exception as error:  # whatever a broken file makes of the decoder; KeyboardInterrupt still ends the run
        return error


def _batches(
    items: Iterator[tuple[str, Tensor | Exception]], size: int
) -> Iterator[list[tuple[str, Tensor | Exception]]]:
    while batch := list(islice(items, size)):
        yield batch


@torch.inference_mode()
def _features(compute: Callable[[Tensor], Tensor], images: list[Tensor]) -> Tensor:
    """Features (B, C, h, w) of images (3, H, W)."""
    return compute(torch.stack(images))


def _report(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)
