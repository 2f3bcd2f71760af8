"""Keras models: their configuration, which names nothing but layers, and weights as safetensors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from shoal.errors import ModelError
from shoal.models.allowed import missing_library

__all__ = ["build_keras", "describe_keras", "keras_classes"]

Node = list[Any]

# Where Keras's own layers, initialisers and the like say that they come from.
_MODULES = (
    "keras", "keras.activations", "keras.constraints", "keras.initializers", "keras.layers",
    "keras.models", "keras.regularizers", "keras.src.models.functional",
    "keras.src.models.sequential", "builtins",
)  # fmt: skip

# Layers that run code, or open files, that a configuration names.
_CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function")


def describe_keras(value: Any, parts: list[bytes], where: str) -> Node | None:
    """``["keras", classes, configuration]`` of a model; None of what is none of Keras's.

    Raises:
        Unsupported: It has a layer that runs code of its configuration.
    """
    keras = sys.modules["keras"]
    if not hasattr(keras, "Model"):
        return None
    from keras.wrappers import SKLearnClassifier, SKLearnRegressor

    if isinstance(value, SKLearnClassifier | SKLearnRegressor):
        return ["const", None]  # what the fitted model beside it was made of
    if not isinstance(value, keras.Model):
        return None
    from safetensors.numpy import save

    from shoal.models.structure import Unsupported, append_blob, refuse_class

    if not value.built:
        return ["const", None]
    config = keras.saving.serialize_keras_object(value)
    config.pop("compile_config", None)  # what only fitting needs
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    config = json.loads(text)
    for module, name in _named(config):
        if name in _CODE:
            raise Unsupported(f"{where} has a {name}, which is code and not data")
        if module not in _MODULES:
            found = _class_of(value, module, name)
            if found is not None:
                refuse_class(found, where)
    append_blob(save({f"{i:05}": w for i, w in enumerate(value.get_weights())}), parts)
    return ["keras", _own_classes(config), config]


def _own_classes(config: Any) -> list[list[str]]:
    """Classes that are not Keras's own: what a configuration calls them, and their full names."""
    own = {
        (
            node.get("registered_name") or node["class_name"],
            f"{node.get('module')}.{node['class_name']}",
        )
        for node in _nodes(config)
        if node.get("module") not in _MODULES
    }
    return [list(pair) for pair in sorted(own)]


def _class_of(model: Any, module: str, name: str) -> type[Any] | None:
    parts = [model, *getattr(model, "_flatten_layers", list)()]
    classes = {type(part) for part in parts}
    return next((c for c in classes if (c.__module__, c.__name__) == (module, name)), None)


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        # A tensor in the call of a functional model names no class.
        if config.get("class_name") not in (None, "__keras_tensor__") and "config" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for each in config:
            yield from _nodes(each)


def _named(config: Any) -> Iterator[tuple[str, str]]:
    for node in _nodes(config):
        yield str(node.get("module")), str(node["class_name"])


def build_keras(
    node: Node, reader: Any, find: Callable[[str], type[Any]], build: Callable[[Node], Any]
) -> Any:
    """The model that `describe_keras` described, uncompiled.

    Args:
        node: The node.
        reader: Gives its blob of weights.
        find: Gives a class by its full name, or refuses it.
        build: Not needed.

    Raises:
        ModelError: Keras is missing, or the configuration wants something that is not allowed.
    """
    _ = build
    try:
        import keras
        from safetensors.numpy import load
    except ImportError as error:
        raise missing_library("tensorflow", error) from error
    _, classes, config = node
    own = {path: find(path) for _, path in classes}
    for module, name in _named(config):
        known = module in _MODULES and (module != "builtins" or name in ("dict", "list", "tuple"))
        if name in _CODE or not (known or f"{module}.{name}" in own):
            raise ModelError(f"The stored model wants to build {module}.{name}: not allowed.")
    custom = {name: own[path] for name, path in classes}
    custom |= {path.rpartition(".")[2]: own[path] for _, path in classes}
    try:
        model = keras.saving.deserialize_keras_object(config, custom_objects=custom, safe_mode=True)
        weights = load(reader.blob())
        model.set_weights([weights[name] for name in sorted(weights)])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The stored Keras model is damaged: {error}") from error
    return model


def keras_classes(node: Node) -> list[str]:
    """The classes of a node that are not Keras's own, by full name."""
    return [path for _, path in node[1]]
