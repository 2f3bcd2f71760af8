"""One seed for everything random in a network: its first weights, dropout, the order of rows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["epoch_seed", "few_threads", "seed_all", "seeded"]


def seeded(build: Callable[[], Any], seed: int) -> Any:
    """What a function builds, with the same first weights whenever it is called.

    Args:
        build: The function; called twice when it was the first to import PyTorch or Keras.
        seed: The seed.
    """
    before = _loaded()
    if before:
        seed_all(seed)
    built = build()
    if _loaded() != before:
        seed_all(seed)
        built = build()
    return built


def seed_all(seed: int) -> None:
    """Seed what is loaded of PyTorch and Keras, and name Keras's layers from the start."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)
        # An operation that has no deterministic form says so; it does not fail.
        torch.use_deterministic_algorithms(True, warn_only=True)
    if keras is not None and hasattr(keras, "utils"):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """The seed of one worker's epoch: what a resumed training needs to go on as it would have.

    Args:
        seed: The model's seed.
        epoch: Counts from 0.
        rank: The worker.
    """
    import numpy as np

    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


@contextlib.contextmanager
def few_threads() -> Iterator[None]:
    """PyTorch with one thread, or ``OMP_NUM_THREADS`` of them, as torchrun has it.

    The bits then do not depend on the number of processors, and small nets are fitted faster:
    threads that wait for each other cost more than they bring. More processes are `workers=`.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loaded() -> tuple[bool, bool]:
    return "torch" in sys.modules, "keras" in sys.modules
