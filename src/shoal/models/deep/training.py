"""Fitting a skorch net in its own loop, alone or as one worker of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from shoal.models.deep.batches import ArrayRows, Batches, Rows, Share
from shoal.models.deep.seeds import epoch_seed

__all__ = ["Alone", "Group", "NotFinite", "dtype_of", "fit_net", "fit_split", "is_binary"]

Array = np.ndarray[Any, Any]


class NotFinite(ValueError):
    """The loss, or a prediction, is no number any more."""


class Group(Protocol):
    """Workers that fit one net together.

    Attributes:
        rank: This worker.
        workers: How many there are.
    """

    rank: int
    workers: int

    def add(self, values: Any) -> None:
        """Add a tensor up over all workers, in place."""
        ...

    def restore(self) -> dict[str, Any] | None:
        """What was saved last, by a group that was interrupted; None when nothing was."""
        ...

    def save(self, make: Callable[[], dict[str, Any]], epoch: int) -> None:
        """Save what `restore` gives, after an epoch."""
        ...


class Alone:
    """A group of one."""

    rank, workers = 0, 1

    def add(self, values: Any) -> None:
        """Nothing to add."""

    def restore(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def save(self, make: Callable[[], dict[str, Any]], epoch: int) -> None:
        """Nothing: one that is alone starts again."""


class _Loader:
    """What skorch takes for a loader: an epoch's shares as tensors."""

    def __init__(self, batches: Batches, convert: Callable[[Share], Any], first: int) -> None:
        self.batches = batches
        self.convert = convert
        self.epoch = first
        self.share: Share | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        import torch

        # Dropout and the like: every worker draws its own, the same in a resumed epoch.
        torch.manual_seed(epoch_seed(self.batches.seed, self.epoch, self.batches.rank + 1))
        for share in self.batches.epoch(self.epoch):
            self.share = share
            yield self.convert(share)
        self.epoch += 1


def fit_net(
    net: Any, rows: Rows, *, seed: int, classes: int = 0, group: Group | None = None
) -> None:
    """Fit a net, as its own ``fit`` does, but for where batches come from.

    Args:
        net: The net, with ``train_split=None``; it is initialised anew.
        rows: What to train on.
        seed: Seeds the weights, the batches and dropout.
        classes: Number of classes; 0 for regression.
        group: The workers that fit it together; default this one alone.

    Raises:
        NotFinite: The loss is NaN or infinite.
    """
    import torch

    group = group or Alone()
    torch.manual_seed(seed)
    net.initialize()
    if classes:
        net.classes_inferred_ = np.arange(classes)
    saved = group.restore()
    done = 0 if saved is None else int(saved["epoch"])
    batches = Batches(
        rows=rows,
        size=len(rows) if net.batch_size == -1 else net.batch_size,
        shuffle=bool(net.get_params_for("iterator_train").get("shuffle", False)),
        seed=seed,
        rank=group.rank,
        workers=group.workers,
    )
    loader = _Loader(batches, _converter(net, classes), done)
    if saved is not None:
        _load_weights(net, saved)
    net.callbacks_ = [*net.callbacks_, ("shoal", _together(net, loader, group))]
    net.notify("on_train_begin", X=rows, y=None)
    if saved is not None:
        _load_callbacks(net, saved["callbacks"])
    while loader.epoch < net.max_epochs and _epoch(net, loader):
        made = loader.epoch
        group.save(lambda made=made: _saved(net, made), made)  # type: ignore[misc]
    net.notify("on_train_end", X=rows, y=None)
    net.callbacks_ = net.callbacks_[:-1]


def fit_split(net: Any, rows: ArrayRows, *, seed: int, classes: int) -> None:
    """Fit a net that keeps rows of its own apart, by skorch's own loaders.

    Args:
        net: The net.
        rows: What to train on.
        seed: Seeds the weights, the loaders and dropout.
        classes: Number of classes; 0 for regression.

    Raises:
        NotFinite: The loss is NaN or infinite.
    """
    import torch

    torch.manual_seed(seed)
    net.initialize()
    kind = torch.zeros(0, dtype=dtype_of(net)).numpy().dtype
    target = rows.target
    if classes and not is_binary(net):
        target = target.astype(np.int64)
    else:
        target = target.astype(kind) if classes else target.astype(kind).reshape(-1, 1)
    net.partial_fit(rows.features.astype(kind), target)
    if net.history and not np.isfinite(net.history[-1, "train_loss"]):
        raise NotFinite(_advice(net.history[-1, "train_loss"], len(net.history), net))


def _advice(loss: float, epoch: int, net: Any) -> str:
    return (
        f"the loss is {loss} in epoch {epoch}: lower the learning rate (lr={net.lr}), scale the "
        "features, or clip the gradients"
    )


def _epoch(net: Any, loader: _Loader) -> bool:
    """One epoch; whether another is to follow."""
    kept = {"dataset_train": loader.batches.rows, "dataset_valid": None}
    net.notify("on_epoch_begin", **kept)
    net.run_single_epoch(loader, training=True, prefix="train", step_fn=net.train_step)
    try:
        net.notify("on_epoch_end", **kept)
    except KeyboardInterrupt:  # as skorch has it: so a callback stops early
        return False
    return True


def _converter(net: Any, classes: int) -> Callable[[Share], Any]:
    import torch

    kind = dtype_of(net)
    binary = is_binary(net)

    def convert(share: Share) -> Any:
        features = torch.as_tensor(np.ascontiguousarray(share.features), dtype=kind)
        if classes and not binary:
            return features, torch.as_tensor(share.target.astype(np.int64))
        target = torch.as_tensor(np.ascontiguousarray(share.target), dtype=kind)
        return features, target if classes else target.reshape(-1, 1)

    return convert


def dtype_of(net: Any) -> Any:
    """The type of numbers that a net's module computes with."""
    import torch

    kinds = (p.dtype for p in net.module_.parameters() if p.is_floating_point())
    return next(kinds, torch.float32)


def is_binary(net: Any) -> bool:
    """Whether a net is skorch's classifier of two classes with one output."""
    import skorch

    return isinstance(net, skorch.NeuralNetBinaryClassifier)


def _together(net: Any, loader: _Loader, group: Group) -> Any:
    """The callback that makes one global step of all workers' steps."""
    import torch
    from skorch.callbacks import Callback

    weighted = getattr(net.criterion_, "reduction", "mean") != "sum"

    class Together(Callback):  # type: ignore[misc]
        """Averages gradients and losses over all workers' rows."""

        def on_grad_computed(self, _: Any, named_parameters: Any, **__: Any) -> None:
            """Make each gradient that of the global batch."""
            share = loader.share
            assert share is not None
            if group.workers == 1:
                return
            learned = [p for _, p in named_parameters if p.requires_grad]
            factor = share.rows / share.total if weighted else float(share.rows > 0)
            # One message for all: the price of a message does not depend on its size.
            flat = torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad * factor).reshape(-1)
                    for p in learned
                ]
            )
            group.add(flat)
            at = 0
            for p in learned:
                p.grad = flat[at : at + p.numel()].reshape(p.shape).clone()
                at += p.numel()

        def on_batch_end(self, net: Any, **_: Any) -> None:
            """Make the loss that of the global batch, and see that it is a number."""
            share = loader.share
            assert share is not None
            loss = net.history[-1]["batches"][-1]["train_loss"]
            if group.workers > 1:
                factor = share.rows / share.total if weighted else float(share.rows > 0)
                summed = torch.tensor([loss * factor if share.rows else 0.0], dtype=torch.float64)
                group.add(summed)
                loss = summed.item()
                net.history.record_batch("train_loss", loss)
                net.history.record_batch("train_batch_size", share.total)
            if not np.isfinite(loss):
                raise NotFinite(_advice(loss, loader.epoch + 1, net))

    return Together().initialize()


def _saved(net: Any, epoch: int) -> dict[str, Any]:
    callbacks = {}
    for name, callback in net.callbacks_:
        plain = {k: v for k, v in vars(callback).items() if type(v) in (int, float, str, bool)}
        schedule = getattr(callback, "lr_scheduler_", None)
        state = None if schedule is None else schedule.state_dict()
        callbacks[name] = {"plain": plain, "schedule": state}
    return {
        "epoch": epoch,
        "module": net.module_.state_dict(),
        "criterion": net.criterion_.state_dict(),
        "optimizer": net.optimizer_.state_dict(),
        "history": net.history.to_list(),
        "callbacks": callbacks,
    }


def _load_weights(net: Any, saved: dict[str, Any]) -> None:
    from skorch.history import History

    net.module_.load_state_dict(saved["module"])
    net.criterion_.load_state_dict(saved["criterion"])
    net.optimizer_.load_state_dict(saved["optimizer"])
    net.history_ = History(saved["history"])


def _load_callbacks(net: Any, saved: dict[str, Any]) -> None:
    for name, callback in net.callbacks_:
        known = saved.get(name)
        if known is None:
            continue
        vars(callback).update(known["plain"])
        if known["schedule"] is not None:
            callback.lr_scheduler_.load_state_dict(known["schedule"])
