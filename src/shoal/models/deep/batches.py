"""The batches of one training, and each worker's rows of them.

All workers go through the same global batches, in the order that the seed decides; each computes
with its own slice of every batch. So the gradients, weighted by rows, add up to those of the whole
batch, however many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shoal.models.deep.seeds import epoch_seed

__all__ = ["ArrayRows", "Batches", "Rows", "Share"]

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """Rows to train on, read as they are needed."""

    def __len__(self) -> int: ...

    def take(self, at: Array) -> tuple[Array, Array]:
        """Some rows.

        Args:
            at: Their positions, int64, shape (n,).

        Returns:
            Features, float64 of shape (n, features), and targets of shape (n,).
        """
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows that are in memory.

    Attributes:
        features: Shape (rows, features).
        target: Shape (rows,).
    """

    features: Array
    target: Array

    def __len__(self) -> int:
        return len(self.features)

    def take(self, at: Array) -> tuple[Array, Array]:
        """Some rows; see `Rows`."""
        return self.features[at], self.target[at]


@dataclass(frozen=True, kw_only=True)
class Share:
    """One worker's rows of one global batch.

    Attributes:
        features: Float64, shape (n, features), n at least 1.
        target: Shape (n,).
        rows: How many of them count: n, or 0 for a worker that the batch has no row for, which
            computes with another's.
        total: Rows of the global batch.
    """

    features: Array
    target: Array
    rows: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Batches:
    """One worker's share of every global batch.

    Attributes:
        rows: All rows.
        size: Rows of a global batch; the last one of an epoch may have fewer.
        shuffle: Whether each epoch has an order of its own; else the rows' own.
        seed: Decides the orders.
        rank: The worker.
        workers: How many there are.
    """

    rows: Rows
    size: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    workers: int = 1

    def __len__(self) -> int:
        """Batches of an epoch."""
        return (len(self.rows) + self.size - 1) // self.size

    def epoch(self, number: int) -> Iterator[Share]:
        """One epoch's shares.

        Args:
            number: Counts from 0.
        """
        count = len(self.rows)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng(epoch_seed(self.seed, number)).permutation(count)
        for start in range(0, count, self.size):
            batch = order[start : start + self.size]
            edges = len(batch) * np.arange(self.workers + 1) // self.workers
            own = batch[edges[self.rank] : edges[self.rank + 1]]
            features, target = self.rows.take(own if len(own) else batch[:1])
            yield Share(features=features, target=target, rows=len(own), total=len(batch))
