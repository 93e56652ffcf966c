"""Whole batches straight from where features, or what is left of them, are kept: nothing is done image by image."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from anomaly_lightning.features.order import Order, Windows, shuffled

Batch = dict[str, Tensor]


class Source(Protocol):
    """Where batches are read from."""

    def batch(self, keys: Sequence[Any]) -> Tensor:
        """What is kept under B keys: (B, ...) float32, a new tensor at every call."""

    def expect(self, start: int, stop: int) -> None:
        """Take note that what was kept from `start` to `stop`, counted as it came, is soon asked for."""


class Repeated(Iterable[Tensor]):
    """Batches that are made anew each time they are walked.

    Args:
        walk: Makes an iterator over them.

    Attributes:
        walked: Whether anybody has looked at them.
    """

    def __init__(self, walk: Callable[[], Iterator[Tensor]]) -> None:
        self.walk, self.walked = walk, False

    def __iter__(self) -> Iterator[Tensor]:
        self.walked = True
        return self.walk()


class KeptBatches(IterableDataset[Batch]):
    """Batches straight from where they are kept: `label` (B,) bool, `index` (B,) int64, and one more tensor.

    In a distributed run each process serves its own share of every epoch's order, and of every batch: together they
    take the steps that one process would. The shares are made equally long by repeating images.

    Args:
        name: What the tensor is called: `features` (B, C, h, w) float32 or `condensed` (B, ...) float32.
        source: Where it is kept.
        keys: What the source finds each of the N images of the set by.
        labels: (N,) bool.
        batch_size: Images a batch, all processes together.
        epoch: The epoch that shuffles, or None for the fixed order.
        seed: Seed of the shuffling.
        shared: Whether several processes share the set; else each serves all of it.
        windows: How much is shuffled at once, of a source that can read ahead; None = everything.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        keys: Sequence[Any],
        labels: Tensor,
        batch_size: int,
        epoch: Callable[[], int] | None = None,
        seed: int = 0,
        shared: bool = True,
        windows: Windows | None = None,
    ) -> None:
        self.name, self.source, self.keys, self.labels = name, source, keys, labels
        self.epoch, self.seed, self.windows = epoch, seed, windows
        distributed = shared and torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.processes = torch.distributed.get_world_size() if distributed else 1
        self.batch_size = max(1, batch_size // self.processes)

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self.keys) / self.processes) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        ahead, served = deque(order.ahead), 0
        for chosen in torch.split(self._share(order.places), self.batch_size):
            while ahead and ahead[0][0] <= served:
                self.source.expect(*ahead.popleft()[1:])
            served += len(chosen) * self.processes
            kept = self.source.batch([self.keys[place] for place in chosen.tolist()])
            yield {self.name: kept, "label": self.labels[chosen], "index": chosen}

    def _order(self) -> Order:
        """The order of all processes together."""
        if self.epoch is None:
            return Order(torch.arange(len(self.keys)))
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch())
        return shuffled(len(self.keys), generator, self.windows)

    def _share(self, places: Tensor) -> Tensor:
        """Places of this process's images in the set, in the order they are served."""
        even = math.ceil(len(places) / self.processes) * self.processes
        return places.repeat(math.ceil(even / max(len(places), 1)))[:even][self.rank :: self.processes]
