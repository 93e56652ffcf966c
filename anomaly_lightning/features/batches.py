"""Whole batches straight from where features, or what is left of them, are kept: nothing is done image by image."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

Batch = dict[str, Tensor]


class Source(Protocol):
    """Where batches are read from."""

    def batch(self, keys: Sequence[Any]) -> Tensor:
        """What is kept under B keys: (B, ...) float32, a new tensor at every call."""


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
    ) -> None:
        self.name, self.source, self.keys, self.labels = name, source, keys, labels
        self.epoch, self.seed = epoch, seed
        distributed = shared and torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.processes = torch.distributed.get_world_size() if distributed else 1
        self.batch_size = max(1, batch_size // self.processes)

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self.keys) / self.processes) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for chosen in torch.split(self._order(), self.batch_size):
            kept = self.source.batch([self.keys[place] for place in chosen.tolist()])
            yield {self.name: kept, "label": self.labels[chosen], "index": chosen}

    def _order(self) -> Tensor:
        """Places of this process's images in the set, in the order they are served."""
        count = len(self.keys)
        if self.epoch is None:
            order = torch.arange(count)
        else:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch())
            order = torch.randperm(count, generator=generator)
        even = math.ceil(count / self.processes) * self.processes
        return order.repeat(math.ceil(even / max(count, 1)))[:even][self.rank :: self.processes]
