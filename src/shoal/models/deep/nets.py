"""skorch's nets: their module, and what of their settings predicting needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from shoal.errors import ModelError
from shoal.models.allowed import missing_library
from shoal.models.deep.modules import build_module, describe_module

__all__ = ["build_net", "describe_net", "is_net"]

Node = list[Any]

# What only fitting reads: not kept.
_FITTING = (
    "module", "criterion", "optimizer", "iterator_train", "train_split", "callbacks", "dataset",
    "warm_start", "device", "compile", "use_caching", "torch_load_kwargs", "verbose",
)  # fmt: skip


def is_net(value: Any) -> bool:
    """Whether a value is a skorch net."""
    skorch = sys.modules.get("skorch")
    return skorch is not None and isinstance(value, skorch.NeuralNet)


def describe_net(net: Any, parts: list[bytes], where: str) -> Node:
    """``["net", class, module, criterion, settings, classes]`` of a fitted net.

    The optimizer's state, callbacks and the history are left out: they predict nothing.

    Raises:
        Unsupported: Its module or a setting that predicting needs cannot be described.
    """
    from shoal.models.structure import Unsupported, describe, refuse_class

    cls = type(net)
    refuse_class(cls, where)
    if not getattr(net, "initialized_", False):
        return ["const", None]  # what a fitted copy was made of, beside it: predicts nothing
    defaults = _defaults()
    for name in ("dataset", "iterator_valid"):
        if getattr(net, name) is not defaults[name]:
            raise Unsupported(f"{where}.{name} is not skorch's own, and predicts otherwise")
    settings = {}
    for name, value in net.get_params(deep=False).items():
        if name.startswith("_") or name.partition("__")[0] in (*_FITTING, "iterator_valid"):
            continue
        settings[name] = _plain(value, f"{where}.{name}")
    module = describe_module(net.module_, parts, f"{where}.module_")
    criterion = describe_module(net.criterion_, parts, f"{where}.criterion_")
    if module is None or criterion is None:
        raise Unsupported(f"{where} has a criterion that is no module")
    inferred = getattr(net, "classes_inferred_", None)
    classes = None if inferred is None else describe(inferred, parts, f"{where}.classes_")
    path = f"{cls.__module__}.{cls.__qualname__}"
    return ["net", path, module[1], criterion[1], settings, classes]


def _plain(value: Any, where: str) -> Node:
    from shoal.models.structure import Unsupported, describe

    state: list[bytes] = []
    node = describe(value, state, where)
    if state:
        raise Unsupported(f"{where} holds a {type(value).__name__}")
    return node


def _defaults() -> dict[str, Any]:
    from skorch.dataset import Dataset
    from torch.utils.data import DataLoader

    return {"dataset": Dataset, "iterator_valid": DataLoader}


def build_net(
    node: Node, reader: Any, find: Callable[[str], type[Any]], build: Callable[[Node], Any]
) -> Any:
    """The net that `describe_net` described: it predicts, and can be fitted anew.

    Args:
        node: The node.
        reader: Gives its blobs of weights.
        find: Gives a class by its full name, or refuses it.
        build: Builds a node of the estimators' kind.

    Raises:
        ModelError: PyTorch or skorch is missing, or the node wants something that is not allowed.
    """
    try:
        import skorch
        import torch
    except ImportError as error:
        raise missing_library("torch", error) from error
    _, path, module_node, criterion_node, settings, classes = node
    cls = find(path)
    if not issubclass(cls, skorch.NeuralNet):
        raise ModelError(f"The stored model wants to build {path}, which is no net of skorch.")
    module = build_module(["module", module_node], reader.blob(), find)
    criterion = build_module(["module", criterion_node], reader.blob(), find)
    given = {name: build(value) for name, value in settings.items()}
    inferred = None if classes is None else build(classes)
    # Making callbacks and an optimizer draws random numbers: the caller's stay as they are.
    with torch.random.fork_rng(devices=[]):
        net = cls(
            module=module, criterion=criterion, train_split=None, verbose=0,
            **{k: v for k, v in given.items() if k.partition("__")[0] not in _FITTING},
        )  # fmt: skip
        net.initialize()
    if inferred is not None:
        net.classes_inferred_ = inferred
    return net
