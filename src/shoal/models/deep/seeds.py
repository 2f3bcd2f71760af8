"""One seed for everything random in a network: its first weights, dropout, the order of rows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["epoch_seed", "few_threads", "seed_all", "seeded"]

# Whose estimators do nothing with Keras.
_WITHOUT = {
    *("builtins", "lightgbm", "numpy", "scipy", "shoal", "skorch", "sklearn", "statsforecast"),
    *("torch", "xgboost"),
}


def seeded(build: Callable[[], Any], seed: int) -> Any:
    """What a function builds, with the same first weights whenever it is called.

    Args:
        build: The function; called twice when it was the first to import PyTorch, or builds what
            may be of Keras.
        seed: The seed.
    """
    before = "torch" in sys.modules
    if before:
        _seed_torch(seed)
    built = build()
    # To begin Keras anew takes 50 ms, and forgets what a person did with it.
    again = "keras" in sys.modules and _may_use_keras(built)
    if again or ("torch" in sys.modules) != before:
        seed_all(seed)
        built = build()
    return built


def seed_all(seed: int) -> None:
    """Seed what is loaded of PyTorch and Keras, and name Keras's layers from the start."""
    _seed_torch(seed)
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "utils"):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")


def _seed_torch(seed: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)
        # An operation that has no deterministic form says so; it does not fail.
        torch.use_deterministic_algorithms(True, warn_only=True)


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


def _may_use_keras(built: Any) -> bool:
    """Whether a part of an estimator is of Keras, or of a person's own, who may fit with it."""
    parts = [built]
    if hasattr(built, "get_params") and not isinstance(built, type):
        parts += built.get_params(deep=True).values()
    kinds = {part if isinstance(part, type) else type(part) for part in parts}
    return not {kind.__module__.partition(".")[0] for kind in kinds} <= _WITHOUT
