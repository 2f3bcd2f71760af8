"""Fitted estimators as one shared structure and the bytes of each.

An estimator is described as a tree of JSON nodes, each a list that starts with its tag:

    ["const", value]        None, text, booleans and constructor numbers; equal in all members
    ["float", "nan"]        a float that JSON cannot say
    ["number", "<f8"]       a number found by fitting; 8 bytes of state ("int" and "float" for
                            Python's own, else a numpy dtype)
    ["array", "<f8", 2, "C"]  an array; its shape and its raw bytes are state
    ["labels", [..]]        a one-dimensional object array of texts and numbers
    ["list"|"tuple", [node, ..]]   ["dict", [[key, node], ..]]   ["slice", [a, b, c]]
    ["ufunc", "log1p"]      a numpy function   ["type", "float64"]   a numpy scalar type
    ["dtype", "<f8"]        a numpy dtype
    ["object", class, {attribute: node}]       an estimator by its attributes
    ["native", class, {param: node}]           a booster; its library's own bytes are state
    ["part", class, {attribute: node}]         an internal of scikit-learn by its attributes
    ["reduced", class, arguments, state]       a compiled internal, such as a tree
    ["records", dtype, 2, "C"]  an array of records    ["objects", shape, [node, ..]]
    ["random", class]       a random number generator; its state as JSON is state
    ["module", structure]   a PyTorch module; its tensors, as safetensors, are state
    ["net", class, ...]     a skorch net    ["keras", ...]  a Keras model and its wrapper
    ["skops", class]        an estimator with compiled internals; its skops bytes are state
    ["pickle", name]        at the root alone: a pickled estimator, only where it is trusted

Two estimators with one tree can share a template; what differs is in their state.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shoal.errors import ModelError
from shoal.models.allowed import is_estimator_class, is_part, is_reduced, trusted_module
from shoal.models.code import has_source
from shoal.models.deep import describe_deep
from shoal.models.native import dump_native, is_native
from shoal.models.opaque import dump_skops

__all__ = ["Different", "Unsupported", "append_blob", "describe", "fill", "refuse_class"]

Node = list[Any]
_SIZE = struct.Struct("<Q")
_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_PLAIN = (str, bool, type(None))


class Unsupported(Exception):
    """A value that cannot be described; the message names the attribute and its class."""


class Different(Exception):
    """A value that does not fit the template."""


def describe(value: Any, parts: list[bytes], where: str, *, fitted: bool = False) -> Node:
    """Describe a value and collect its state.

    Args:
        value: An estimator, or something an estimator holds.
        parts: Receives the state's pieces, in the tree's order.
        where: Where the value was found, for error messages.
        fitted: Whether numbers are results of fitting, so state, not structure.

    Raises:
        Unsupported: The value cannot be described.
    """
    kind = type(value)
    if kind in _PLAIN:
        return ["const", value]
    if kind is int or kind is float:
        return _describe_number(value, parts, fitted)
    if isinstance(value, np.generic | np.ndarray):
        return _describe_array(value, parts, where)
    if kind in (list, tuple, dict):
        return _describe_container(value, parts, where, fitted)
    node = _describe_constant(value)
    if node is not None:
        return node
    internal = _describe_internal(value, parts, where)
    if internal is not None:
        return internal
    deep = describe_deep(value, parts, where)
    if deep is not None:
        return deep
    if not isinstance(value, type) and is_estimator_class(kind):
        return _describe_estimator(value, parts, where)
    name = getattr(value, "__qualname__", None)
    found = f"the function {name}" if name and callable(value) else f"a {kind.__qualname__}"
    raise Unsupported(f"{where} holds {found}")


def _describe_container(value: Any, parts: list[bytes], where: str, fitted: bool) -> Node:
    if type(value) is not dict:
        children = [describe(v, parts, f"{where}[{i}]", fitted=fitted) for i, v in enumerate(value)]
        return [type(value).__name__, children]
    if not all(type(k) in (str, int) for k in value):
        raise Unsupported(f"{where} holds a dict whose keys are not text or integers")
    items = [[k, describe(v, parts, f"{where}[{k!r}]", fitted=fitted)] for k, v in value.items()]
    return ["dict", items]


def _describe_constant(value: Any) -> Node | None:
    if type(value) is slice:
        return ["slice", [value.start, value.stop, value.step]]
    if type(value) is np.ufunc:
        name = str(getattr(value, "__name__", ""))
        return ["ufunc", name] if getattr(np, name, None) is value else None
    if isinstance(value, type) and issubclass(value, np.generic):
        return ["type", value.__name__]
    if isinstance(value, np.dtype) and not value.hasobject and value.names is None:
        return ["dtype", value.str]
    return None


def _describe_internal(value: Any, parts: list[bytes], where: str) -> Node | None:
    """Parts of scikit-learn's estimators that are no estimators."""
    cls = type(value)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if is_part(path):
        held = {k: describe(v, parts, f"{where}.{k}", fitted=True) for k, v in vars(value).items()}
        return ["part", path, held]
    if is_reduced(path):
        how, arguments, *rest = value.__reduce__()
        if how is cls and len(rest) < 2:
            built = describe(arguments, parts, where, fitted=True)
            return [
                "reduced",
                path,
                built,
                describe(rest[0] if rest else None, parts, where, fitted=True),
            ]
    if cls in (np.random.RandomState, np.random.Generator):
        source = value.bit_generator if hasattr(value, "bit_generator") else value._bit_generator
        text = json.dumps(source.state, default=lambda array: array.tolist())
        append_blob(text.encode(), parts)
        return ["random", cls.__name__]
    return None


def _describe_number(value: float, parts: list[bytes], fitted: bool) -> Node:
    if not fitted or (type(value) is int and not -(2**63) <= value < 2**63):
        if type(value) is float and not math.isfinite(value):
            return ["float", repr(value)]
        return ["const", value]
    parts.append(_INT.pack(value) if type(value) is int else _FLOAT.pack(value))
    return ["number", type(value).__name__]


def _describe_array(value: Any, parts: list[bytes], where: str) -> Node:
    dtype = value.dtype
    if isinstance(value, np.generic):
        if type(value).__module__ != "numpy" or dtype.hasobject or dtype.names is not None:
            raise Unsupported(f"{where} holds a {type(value).__name__}")
        parts.append(value.tobytes())
        return ["number", dtype.str]
    if type(value) is not np.ndarray:
        raise Unsupported(f"{where} holds a {type(value).__name__}")
    if dtype.kind == "O":
        labels = value.tolist()
        if value.ndim == 1 and all(type(v) in (*_PLAIN, int) for v in labels):
            return ["labels", labels]
        if labels and all(is_estimator_class(type(v)) for v in value.flat):
            nodes = [describe(v, parts, f"{where}[{i}]") for i, v in enumerate(value.flat)]
            return ["objects", list(value.shape), nodes]
        raise Unsupported(f"{where} holds an array of Python objects")
    if dtype.hasobject or dtype.subdtype is not None:
        raise Unsupported(f"{where} holds a structured array")
    if dtype.names is not None:
        return _describe_records(value, parts, where)
    node = ["array", dtype.str, value.ndim, "F" if _is_fortran(value) else "C"]
    _append_array(node, value, parts)
    return node


def _describe_records(value: Any, parts: list[bytes], where: str) -> Node:
    fields = [value.dtype.fields[name] for name in value.dtype.names]
    if any(kind.names is not None or kind.subdtype is not None for kind, *_ in fields):
        raise Unsupported(f"{where} holds an array of nested records")
    layout = {
        "names": list(value.dtype.names),
        "formats": [kind.str for kind, *_ in fields],
        "offsets": [offset for _, offset, *_ in fields],
        "itemsize": value.dtype.itemsize,
    }
    node = ["records", layout, value.ndim, "C"]
    _append_array(node, value, parts)
    return node


def _is_fortran(value: np.ndarray[Any, Any]) -> bool:
    return bool(value.flags.f_contiguous and not value.flags.c_contiguous)


def _append_array(node: Node, value: np.ndarray[Any, Any], parts: list[bytes]) -> None:
    parts.append(struct.pack(f"<{value.ndim}I", *value.shape))
    parts.append(value.tobytes(order=node[3]))


def _describe_estimator(value: Any, parts: list[bytes], where: str) -> Node:
    cls = type(value)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if is_native(value):
        params = value.get_params(deep=False)
        empty: list[bytes] = []
        nodes = {k: describe(v, empty, f"{where}.{k}") for k, v in params.items()}
        append_blob(dump_native(value), parts)
        return ["native", path, nodes]
    known = len(parts)
    try:
        return ["object", path, _describe_attributes(value, parts, where)]
    except Unsupported:
        if not trusted_module(cls.__module__) or not cls.__module__.startswith("sklearn."):
            raise
        # Compiled trees, losses and the like: this one estimator as a whole through skops,
        # while what is around it keeps its shared structure.
        try:
            data = dump_skops(value)
        except ModelError:
            data = None
        if data is None:
            raise  # what was found first names the attribute
        del parts[known:]
        append_blob(data, parts)
        return ["skops", path]


def _describe_attributes(value: Any, parts: list[bytes], where: str) -> dict[str, Node]:
    cls = type(value)
    if _own_state(cls):
        raise Unsupported(f"{where} is a {cls.__name__}, which has its own way to be stored")
    refuse_class(cls, where)
    declared = value.get_params(deep=False) if hasattr(value, "get_params") else {}
    return {
        # A forest gives each tree its own random_state: a result of fitting in effect.
        k: describe(v, parts, f"{where}.{k}", fitted=k not in declared or k == "random_state")
        for k, v in vars(value).items()
    }


def refuse_class(cls: type[Any], where: str) -> None:
    """Refuse a class that nobody could find again.

    Raises:
        Unsupported: It is local to a function, or its module has no code to import or to keep.
    """
    if "." in cls.__qualname__ or not (_importable(cls.__module__) or has_source(cls)):
        raise Unsupported(
            f"{where} is of class {cls.__module__}.{cls.__qualname__}, which no other process can "
            "import: move it to the top of a file of the project's models, or to a module that can "
            "be imported wherever the model is used"
        )


def _importable(module: str) -> bool:
    if trusted_module(module):
        return True
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # no such package; or a module that was made by hand
        return False


def append_blob(data: bytes, parts: list[bytes]) -> None:
    """Add bytes to a state, with their number before them."""
    parts.append(_SIZE.pack(len(data)))
    parts.append(data)


def _own_state(cls: type[Any]) -> bool:
    from sklearn.base import BaseEstimator

    if any(vars(c).get("__slots__") for c in cls.__mro__):
        return True
    base = BaseEstimator if issubclass(cls, BaseEstimator) else object
    return any(
        getattr(cls, name, None) is not getattr(base, name, None)
        for name in ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
    )


def fill(node: Node, value: Any, parts: list[bytes]) -> None:
    """Collect the state of a value whose structure is known.

    Args:
        node: What `describe` gave for another estimator.
        value: The value to store.
        parts: Receives the state's pieces.

    Raises:
        Different: The structure is not the same.
    """
    _FILLS.get(node[0], _fill_other)(node, value, parts)


def _fill_const(node: Node, value: Any, _: list[bytes]) -> None:
    if type(value) is not type(node[1]) or value != node[1]:
        raise Different


def _fill_array(node: Node, value: Any, parts: list[bytes]) -> None:
    if type(value) is not np.ndarray or value.dtype.str != node[1] or value.ndim != node[2]:
        raise Different
    if _is_fortran(value) != (node[3] == "F"):
        raise Different
    _append_array(node, value, parts)


def _fill_object(node: Node, value: Any, parts: list[bytes]) -> None:
    attributes = vars(value) if hasattr(value, "__dict__") else {}
    cls = type(value)
    if f"{cls.__module__}.{cls.__qualname__}" != node[1] or len(attributes) != len(node[2]):
        raise Different
    # Pairwise, so that a different order of attributes is a different structure.
    for (name, child), (found, held) in zip(node[2].items(), attributes.items(), strict=True):
        if name != found:
            raise Different
        fill(child, held, parts)


def _fill_objects(node: Node, value: Any, parts: list[bytes]) -> None:
    if type(value) is not np.ndarray or value.dtype.kind != "O" or list(value.shape) != node[1]:
        raise Different
    for child, held in zip(node[2], value.flat, strict=True):
        fill(child, held, parts)


def _fill_sequence(node: Node, value: Any, parts: list[bytes]) -> None:
    if type(value).__name__ != node[0] or len(value) != len(node[1]):
        raise Different
    for child, held in zip(node[1], value, strict=True):
        fill(child, held, parts)


def _fill_dict(node: Node, value: Any, parts: list[bytes]) -> None:
    if type(value) is not dict or list(value) != [key for key, _ in node[1]]:
        raise Different
    for key, child in node[1]:
        fill(child, value[key], parts)


def _fill_other(node: Node, value: Any, parts: list[bytes]) -> None:
    # The rarer nodes are described anew and compared: correct, and fast enough.
    pieces: list[bytes] = []
    try:
        again = describe(value, pieces, "")
    except Unsupported:
        raise Different from None
    if again != node:
        raise Different
    parts.extend(pieces)


def _fill_number(node: Node, value: Any, parts: list[bytes]) -> None:
    name = node[1]
    if name == "float" and type(value) is float:
        parts.append(_FLOAT.pack(value))
    elif name == "int" and type(value) is int and -(2**63) <= value < 2**63:
        parts.append(_INT.pack(value))
    elif isinstance(value, np.generic) and value.dtype.str == name:
        parts.append(value.tobytes())
    else:
        raise Different


_FILLS: Mapping[str, Callable[[Node, Any, list[bytes]], None]] = {
    "const": _fill_const,
    "number": _fill_number,
    "array": _fill_array,
    "object": _fill_object,
    "objects": _fill_objects,
    "part": _fill_object,
    "list": _fill_sequence,
    "tuple": _fill_sequence,
    "dict": _fill_dict,
}
