"""How each kind of estimator is fitted by one worker of a group."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import TrainingError
from shoal.models.deep.batches import Batches
from shoal.models.deep.seeds import few_threads
from shoal.training.distributed.rows import MappedRows

__all__ = ["Context", "Shard", "Transformed", "kind_of", "learn"]

Array = np.ndarray[Any, Any]


class Transformed:
    """Rows after a pipeline's first steps.

    Args:
        rows: The rows.
        steps: Fitted transformers.
    """

    def __init__(self, rows: MappedRows, steps: list[Any]) -> None:
        self._rows = rows
        self._steps = steps

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, at: Array) -> tuple[Array, Array]:
        """Some rows; see `MappedRows.take`."""
        features, target = self._rows.take(at)
        for step in self._steps:
            features = np.asarray(step.transform(features))
        return features, target


@dataclass(frozen=True, kw_only=True)
class Context:
    """One worker of a group, as a training loop of one's own sees it.

    Attributes:
        rank: Its number, from 0.
        workers: How many there are.
        seed: The model's seed.
        classes: Number of classes; 0 for regression.
        folder: Where the group saves what it has reached.
        report: Tells how many epochs are done.
        add: Adds an array up over all workers; every worker calls it equally often.
    """

    rank: int
    workers: int
    seed: int
    classes: int
    folder: Path
    report: Callable[[int], None]
    add: Callable[[Array], Array]

    def save(self, data: bytes, epoch: int) -> None:
        """Save what a group that lost a worker goes on from; the first worker writes.

        Args:
            data: What `restore` gives.
            epoch: How many epochs are in it.
        """
        if self.rank == 0:
            part = self.folder / "part"
            part.write_bytes(data)
            part.replace(self.folder / f"{epoch:09}")
            for old in self.folder.glob("[0-9]*"):
                if int(old.name) < epoch:
                    old.unlink()
        self.report(epoch)

    def restore(self) -> tuple[bytes, int] | None:
        """What was saved last, and its epochs; None when nothing was."""
        saved = sorted(self.folder.glob("[0-9]*"))
        return (saved[-1].read_bytes(), int(saved[-1].name)) if saved else None


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One worker's rows, for a training loop of one's own.

    Attributes:
        rows: All rows: ``len``, and ``take`` of some.
        context: The worker.
    """

    rows: Transformed
    context: Context

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, size: int, *, epoch: int = 0, shuffle: bool = True
    ) -> Iterator[tuple[Array, Array, float]]:
        """This worker's share of each global batch of an epoch.

        Args:
            size: Rows of a global batch.
            epoch: Counts from 0.
            shuffle: Whether each epoch has an order of its own.

        Yields:
            Features, targets, and the share of the global batch's rows: what a mean gradient
            counts when those of all workers are added up.
        """
        for share in self._batches(size, shuffle).epoch(epoch):
            yield share.features, share.target, share.rows / share.total

    def _batches(self, size: int, shuffle: bool) -> Batches:
        return Batches(
            rows=self.rows, size=size, shuffle=shuffle, seed=self.context.seed,
            rank=self.context.rank, workers=self.context.workers,
        )  # fmt: skip


def kind_of(estimator: Any) -> str:
    """Which library fits it together: ``torch``, ``keras``, ``xgboost``, or its own loop's.

    Raises:
        TrainingError: None does.
    """
    name = type(estimator).__name__
    if hasattr(estimator, "fit_shard"):
        return str(getattr(estimator, "backend", "torch"))
    if name in ("NetRegressor", "NetClassifier"):
        if estimator.net.train_split is not None:
            raise TrainingError(
                "The net keeps rows of its own apart (train_split), which workers cannot share; "
                "Shoal measures on the holdout.",
                hint="give the net train_split=None",
            )
        return "torch"
    if name in ("KerasRegressor", "KerasClassifier"):
        unknown = set(estimator.wrapper.fit_kwargs or {}) - {
            "epochs", "batch_size", "shuffle", "verbose"
        }  # fmt: skip
        if unknown:
            raise TrainingError(
                f"Workers fit a Keras model by epochs, batch_size and shuffle; its fit_kwargs "
                f"also name {', '.join(sorted(unknown))}.",
                hint="leave them out of fit_kwargs",
            )
        return "keras"
    if type(estimator).__module__.startswith("xgboost") and hasattr(estimator, "get_xgb_params"):
        return "xgboost"
    raise TrainingError(
        f"workers= fits nets of skorch, Keras's wrappers, XGBoost's regressors and classifiers, "
        f"and estimators with fit_shard(shard, context); found a {name}.",
        hint="leave workers out, or train a fleet: by=[...] fits segments side by side",
    )


def learn(estimator: Any, rows: Transformed, context: Context) -> None:
    """Fit an estimator as one worker.

    Args:
        estimator: The last step of the model's pipeline; fitted afterwards.
        rows: All rows.
        context: The worker.
    """
    if hasattr(estimator, "fit_shard"):
        estimator.fit_shard(Shard(rows=rows, context=context), context)
        return
    kind = kind_of(estimator)
    if kind == "torch":
        _learn_net(estimator, rows, context)
    elif kind == "keras":
        from shoal.training.distributed.tensors import learn_keras

        learn_keras(estimator, rows, context)
    else:
        from shoal.training.distributed.boosters import learn_booster

        learn_booster(estimator, rows, context)


class _NetGroup:
    """A `Group` over PyTorch's process group."""

    def __init__(self, context: Context) -> None:
        self.rank, self.workers = context.rank, context.workers
        self._context = context

    def add(self, values: Any) -> None:
        """Add a tensor up over all workers, in place."""
        import torch.distributed as dist

        if self.workers > 1:
            dist.all_reduce(values)

    def restore(self) -> dict[str, Any] | None:
        """What the first worker saved last."""
        import io

        import torch

        found = self._context.restore()
        if found is None:
            return None
        # Tensors and plain values only: what is saved can build nothing.
        saved: dict[str, Any] = torch.load(io.BytesIO(found[0]), weights_only=True)
        return saved | {"history": json.loads(saved["history"])}

    def save(self, make: Callable[[], dict[str, Any]], epoch: int) -> None:
        """Save; the first worker writes."""
        import io

        import torch

        data = b""
        if self.rank == 0:
            sink, made = io.BytesIO(), make()
            torch.save(made | {"history": json.dumps(made["history"], default=float)}, sink)
            data = sink.getvalue()
        self._context.save(data, epoch)


def _learn_net(estimator: Any, rows: Transformed, context: Context) -> None:
    import torch

    from shoal.models.deep.training import fit_net

    net = estimator.net
    if str(net.device).startswith("cuda") and ":" not in str(net.device):
        net.set_params(device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(net.device)
    with few_threads():
        fit_net(
            net,
            rows,
            seed=estimator.seed,
            classes=context.classes,
            group=_NetGroup(context),
        )
