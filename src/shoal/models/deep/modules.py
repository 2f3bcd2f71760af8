"""PyTorch modules: described by what they hold, their tensors as safetensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError
from shoal.models.allowed import missing_library

if TYPE_CHECKING:
    import torch

__all__ = ["build_module", "describe_module", "module_classes"]

Node = list[Any]

# What every module has; hooks are functions, so a module with some is refused.
_OWN = ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

# Of recurrent layers: weak references, and a list that is made again of the parameters.
_AGAIN = ("_flat_weight_refs", "_flat_weights")

_FUNCTIONS = ("torch.nn.functional", "torch")


def describe_module(value: Any, parts: list[bytes], where: str) -> Node | None:
    """``["module", structure]`` of a module, or ``["tensor", name, ...]``; None of other values.

    Raises:
        Unsupported: Something in it is no number, text, list, tensor or module.
    """
    import torch

    if not isinstance(value, torch.nn.Module):
        return None
    tensors: dict[str, torch.Tensor] = {}
    node = ["module", _Describer(tensors).module(value, "", where)]
    append_tensors(tensors, parts, where)
    return node


def append_tensors(tensors: Mapping[str, Any], parts: list[bytes], where: str) -> None:
    """Add tensors to a state, as one blob of safetensors.

    Raises:
        Unsupported: A tensor is of a kind that safetensors does not know.
    """
    from safetensors.torch import save

    from shoal.models.structure import Unsupported, append_blob

    try:
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    except Exception as error:
        raise Unsupported(f"{where} holds tensors that safetensors refuses: {error}") from error
    append_blob(data, parts)


class _Describer:
    """Describes one module; a tensor that is found twice is stored once."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors
        self._names: dict[int, str] = {}
        self._seen: dict[int, str] = {}

    def module(self, module: torch.nn.Module, path: str, where: str) -> Any:
        from shoal.models.structure import Unsupported, refuse_class

        known = self._seen.get(id(module))
        if known is not None:
            return known
        self._seen[id(module)] = path
        cls = type(module)
        refuse_class(cls, where)
        held = vars(module)
        attributes: dict[str, Node] = {}
        for name, value in held.items():
            if name in _OWN or name in _AGAIN:
                continue
            if "_hook" in name:
                if value:
                    raise Unsupported(f"{where} has hooks, which are functions")
                continue
            attributes[name] = self._value(value, f"{path}{name}", f"{where}.{name}")
        return {
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "training": module.training,
            "attributes": attributes,
            "parameters": {
                name: None if tensor is None else self._tensor(tensor, f"{path}{name}")
                for name, tensor in module._parameters.items()
            },
            "buffers": {
                name: None if tensor is None else self._tensor(tensor, f"{path}{name}")
                for name, tensor in module._buffers.items()
            },
            "transient": sorted(module._non_persistent_buffers_set),
            "modules": {
                name: None
                if child is None
                else self.module(child, f"{path}{name}.", f"{where}.{name}")
                for name, child in module._modules.items()
            },
        }

    def _tensor(self, tensor: torch.Tensor, name: str) -> Node:
        import torch

        stored = self._names.setdefault(id(tensor), name)
        self._tensors.setdefault(stored, tensor)
        return [stored, isinstance(tensor, torch.nn.Parameter), tensor.requires_grad]

    def _value(self, value: Any, path: str, where: str) -> Node:
        import torch

        from shoal.models.structure import Unsupported, describe

        if isinstance(value, torch.Tensor):
            return ["tensor", self._tensor(value, path)]
        if isinstance(value, torch.dtype | torch.device):
            return ["torch", str(value)]
        if isinstance(value, torch.nn.Module):
            raise Unsupported(f"{where} holds a module that is not registered")
        if type(value) in (list, tuple):
            items = [self._value(v, f"{path}.{i}", f"{where}[{i}]") for i, v in enumerate(value)]
            return [type(value).__name__, items]
        if type(value) is dict and all(type(key) in (str, int) for key in value):
            return ["dict", [[k, self._value(v, f"{path}.{k}", where)] for k, v in value.items()]]
        if callable(value) and not isinstance(value, type):
            name = getattr(value, "__name__", "")
            for owner in _FUNCTIONS:
                if getattr(sys.modules.get(owner), name, None) is value:
                    return ["function", f"{owner}.{name}"]
        state: list[bytes] = []
        node = describe(value, state, where)
        if state:
            raise Unsupported(f"{where} holds a {type(value).__name__}; use a buffer")
        return node


def build_module(node: Node, state: bytes, find: Callable[[str], type[Any]]) -> Any:
    """The module that `describe_module` described.

    Args:
        node: The node.
        state: Its tensors.
        find: Gives a class by its full name, or refuses it.

    Raises:
        ModelError: PyTorch is missing, or the node wants something that is not allowed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise missing_library("torch", error) from error
    try:
        tensors = load(state)
    except SafetensorError as error:
        raise ModelError(f"The stored weights are damaged: {error}") from error
    return _Builder(tensors, find).module(node[1], "")


class _Builder:
    def __init__(self, tensors: Mapping[str, Any], find: Callable[[str], type[Any]]) -> None:
        self._tensors = tensors
        self._find = find
        self._made: dict[str, Any] = {}
        self._modules: dict[str, Any] = {}

    def module(self, node: Any, path: str) -> Any:
        import torch

        if isinstance(node, str):
            return self._modules[node]
        cls: Any = self._find(node["class"])
        module: Any = cls.__new__(cls)
        self._modules[path] = module
        torch.nn.Module.__init__(module)
        held = vars(module)
        held["training"] = bool(node["training"])
        for kind in ("parameters", "buffers"):
            held[f"_{kind}"].update(
                {name: None if t is None else self._tensor(t) for name, t in node[kind].items()}
            )
        held["_non_persistent_buffers_set"].update(node["transient"])
        for name, child in node["modules"].items():
            held["_modules"][name] = None if child is None else self.module(child, f"{path}{name}.")
        held.update({name: self._value(value) for name, value in node["attributes"].items()})
        if isinstance(module, torch.nn.RNNBase):
            module._flat_weights = [
                held["_parameters"].get(name) for name in module._flat_weights_names
            ]
            module._flat_weight_refs = [None] * len(module._flat_weights)
        return module

    def _tensor(self, node: Node) -> Any:
        import torch

        name, is_parameter, learns = node
        found = self._made.get(name)
        if found is None:
            found = self._tensors[name]
            if is_parameter:
                found = torch.nn.Parameter(found, requires_grad=learns)
            self._made[name] = found
        return found

    def _value(self, node: Node) -> Any:
        import torch

        tag = node[0]
        if tag == "tensor":
            return self._tensor(node[1])
        if tag == "torch":
            kind, _, name = str(node[1]).partition(".")
            found = getattr(torch, name, None)
            return (
                found if kind == "torch" and isinstance(found, torch.dtype) else torch.device("cpu")
            )
        if tag == "function":
            owner, _, name = str(node[1]).rpartition(".")
            found = getattr(sys.modules.get(owner), name, None) if owner in _FUNCTIONS else None
            if not callable(found) or not _computes(found):
                raise ModelError(f"The stored model wants {node[1]}: not allowed.")
            return found
        if tag in ("list", "tuple"):
            items = [self._value(child) for child in node[1]]
            return items if tag == "list" else tuple(items)
        if tag == "dict":
            return {key: self._value(child) for key, child in node[1]}
        if tag == "const":
            return node[1]
        if tag == "float":
            return float(node[1])
        if tag == "slice":
            return slice(*node[1])
        raise ModelError(f"The stored module has an unknown node {tag!r}.")


def _computes(function: Any) -> bool:
    """Whether a function of torch is one of tensors: no loading, saving or compiling."""
    import torch

    if getattr(torch.nn.functional, function.__name__, None) is function:
        return True
    # The operations of tensors are built in; what reads files or code is written in Python.
    return type(function).__name__ == "builtin_function_or_method" and hasattr(
        torch.Tensor, function.__name__
    )


def module_classes(module: Any) -> dict[str, type[Any]]:
    """The classes of a module and all its submodules, by full name."""
    import torch

    assert isinstance(module, torch.nn.Module)
    classes = {type(part) for part in module.modules()}
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}
