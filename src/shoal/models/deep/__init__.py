"""Neural networks as members: a structure that is data, and weights that are only numbers.

A module is described by what it holds, as estimators are: its class, its plain attributes, its
submodules. Its tensors are its state, in safetensors' format. Nothing here imports PyTorch or
TensorFlow before a model does.
"""

from __future__ import annotations

import sys
from typing import Any

from shoal.models.deep.seeds import seeded

__all__ = ["build_deep", "describe_deep", "seeded", "wrapped"]


def wrapped(estimator: Any, seed: int) -> Any:
    """An estimator whose nets take rows of tables.

    Args:
        estimator: What a declared function returned.
        seed: The model's seed.
    """
    if "skorch" in sys.modules:
        from shoal.models.deep.estimators import wrap_nets

        estimator = wrap_nets(estimator, seed)
    if hasattr(sys.modules.get("keras"), "wrappers"):
        from shoal.models.deep.keras_estimators import wrap_keras

        estimator = wrap_keras(estimator, seed)
    return estimator


def describe_deep(value: Any, parts: list[bytes], where: str) -> list[Any] | None:
    """The node of a network, and its weights; None when the value is none.

    Args:
        value: What an estimator holds, or is.
        parts: Receives the state.
        where: Where the value was found, for error messages.

    Raises:
        Unsupported: It is a network that cannot be described.
    """
    if "torch" in sys.modules:
        from shoal.models.deep.modules import describe_module
        from shoal.models.deep.nets import describe_net, is_net

        if is_net(value):
            return describe_net(value, parts, where)
        node = describe_module(value, parts, where)
        if node is not None:
            return node
    if "keras" in sys.modules:
        from shoal.models.deep.keras import describe_keras

        found: list[Any] | None = describe_keras(value, parts, where)
        return found
    return None


def build_deep(node: list[Any], reader: Any, find: Any, build: Any) -> Any:
    """What `describe_deep` described.

    Args:
        node: The node.
        reader: Gives its blobs of weights.
        find: Gives a class by its full name, or refuses it.
        build: Builds a node of the estimators' kind.

    Raises:
        ModelError: PyTorch or Keras is missing, or the node wants something that is not allowed.
    """
    if node[0] == "keras":
        from shoal.models.deep.keras import build_keras

        return build_keras(node, reader, find, build)
    if node[0] == "net":
        from shoal.models.deep.nets import build_net

        return build_net(node, reader, find, build)
    from shoal.models.deep.modules import build_module

    return build_module(node, reader.blob(), find)
