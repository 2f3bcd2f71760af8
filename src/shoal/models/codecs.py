"""Fitted estimators to rows and back, bit for bit, without pickle."""

from __future__ import annotations

import importlib.metadata
import json
import math
import struct
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import ModelError
from shoal.models.allowed import is_reduced, resolve_class, trusted_module
from shoal.models.code import RecordedCode
from shoal.models.deep import build_deep
from shoal.models.deep.keras import keras_classes
from shoal.models.native import load_native
from shoal.models.opaque import dump_pickle, load_pickle, load_skops
from shoal.models.structure import Different, Node, Unsupported, describe, fill
from shoal.models.trees import check_boosted, check_tree

__all__ = [
    "Decoder",
    "Encoded",
    "Encoder",
    "class_map",
    "decode",
    "encode",
    "is_pickled",
    "prove_round_trip",
    "template_modules",
]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A fitted estimator in two parts.

    Attributes:
        template: Canonical JSON; the same for all estimators of one structure.
        state: The bytes that only this estimator has.
    """

    template: str
    state: bytes


class Encoder:
    """Encodes many estimators of few structures; describes each structure once.

    Args:
        pickle: Pickle what cannot be stored otherwise.
    """

    def __init__(self, *, pickle: bool = False) -> None:
        self._pickle = pickle
        self._known: list[tuple[Node, str]] = []

    def encode(self, estimator: Any) -> Encoded:
        """Encode one fitted estimator; see `encode`."""
        for node, template in reversed(self._known):
            parts: list[bytes] = []
            try:
                fill(node, estimator, parts)
            except Different:
                continue
            return Encoded(template=template, state=b"".join(parts))
        parts = []
        name = type(estimator).__name__
        try:
            node = describe(estimator, parts, name)
        except Unsupported as reason:
            if self._pickle:
                return Encoded(template=_template(["pickle", name]), state=dump_pickle(estimator))
            raise ModelError(
                f"{name} cannot be stored without pickle: {reason}.",
                hint="use numbers, text, lists, dicts, numpy arrays and functions, or estimators "
                "of scikit-learn, XGBoost or LightGBM in its attributes; or, if you trust whoever "
                "can write your models, trust_pickle=True",
            ) from None
        template = _template(node)
        if all(template != known for _, known in self._known):
            self._known.append((node, template))
        return Encoded(template=template, state=b"".join(parts))


def _template(node: Node) -> str:
    import sklearn

    content = {"codec": 1, "root": node, "sklearn": sklearn.__version__}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Decoder:
    """Decodes the members that share one template.

    Args:
        template: The template.
        modules: Modules besides scikit-learn, XGBoost and LightGBM whose estimator classes may
            be built.
        classes: Classes at hand by full name, which need not be imported.
        trust_pickle: Unpickle members that were pickled.
        code: Source of trusted modules that need not be importable.

    Raises:
        ModelError: The template is not one of ours, or it is pickled and not trusted.
    """

    def __init__(
        self,
        template: str,
        modules: Collection[str] = (),
        classes: Mapping[str, type[Any]] | None = None,
        *,
        trust_pickle: bool = False,
        code: RecordedCode | None = None,
    ) -> None:
        try:
            content = json.loads(template)
            codec, fitted_with = content["codec"], str(content["sklearn"])
            self._root: Node = content["root"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"The model's template cannot be read: {error}") from error
        if codec != 1:
            raise ModelError(f"The model's template has codec {codec!r}; expected 1.")
        if self._root[0] == "pickle" and not trust_pickle:
            raise ModelError(
                f"A member is a pickled {self._root[1]}: opening it runs whatever code it holds.",
                hint="if you trust who made it: shoal serve --trust-pickle, trust_pickle=True in "
                "its declaration, or export SHOAL_TRUST_PICKLE=1",
            )
        self._modules = tuple(modules)
        self._classes: dict[str, type[Any]] = dict(classes or {})
        self._code = code
        installed = importlib.metadata.version("scikit-learn")  # importing it takes a second
        if fitted_with.split(".")[:2] != installed.split(".")[:2]:
            warnings.warn(
                f"the model was fitted with scikit-learn {fitted_with}, this is "
                f"{installed}: predictions may differ",
                stacklevel=2,
            )

    def decode(self, state: bytes | memoryview) -> Any:
        """The fitted estimator; see `decode`."""
        if self._root[0] == "pickle":
            return load_pickle(bytes(state))
        reader = _Reader(state)
        try:
            estimator = self._build(self._root, reader)
        except (struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ModelError(f"The stored model is damaged: {error}") from error
        if reader.left:
            raise ModelError(f"The stored model is damaged: {reader.left} bytes too many.")
        return estimator

    def _build(self, node: Node, reader: _Reader) -> Any:
        tag = node[0]
        if tag in ("object", "part"):
            cls: Any = self._class(node[1])
            built = cls.__new__(cls)
            vars(built).update({k: self._build(v, reader) for k, v in node[2].items()})
            if "_predictors" in node[2]:
                check_boosted(built)
            return built
        if tag in ("list", "tuple"):
            children = [self._build(child, reader) for child in node[1]]
            return children if tag == "list" else tuple(children)
        if tag == "dict":
            return {key: self._build(child, reader) for key, child in node[1]}
        if tag == "reduced":
            return self._reduced(node, reader)
        if tag == "objects":
            array = np.empty(tuple(node[1]), dtype=object)
            for i, child in enumerate(node[2]):
                array.flat[i] = self._build(child, reader)
            return array
        if tag == "native":
            params = {k: self._build(v, reader) for k, v in node[2].items()}
            return load_native(self._class(node[1]), params, reader.blob())
        return self._leaf(node, reader)

    def _leaf(self, node: Node, reader: _Reader) -> Any:
        tag = node[0]
        if tag in ("module", "net", "keras"):
            return build_deep(node, reader, self._class, lambda child: self._build(child, reader))
        leaf = _LEAVES.get(tag)
        if leaf is None:
            raise ModelError(f"The model's template has an unknown node {tag!r}.")
        return leaf(node, reader)

    def _reduced(self, node: Node, reader: _Reader) -> Any:
        if not is_reduced(node[1]):
            raise ModelError(f"The stored model wants to rebuild {node[1]}: not allowed.")
        cls: Any = self._class(node[1])
        arguments = self._build(node[2], reader)
        state = self._build(node[3], reader)
        if cls.__name__ == "Tree":
            check_tree(arguments, state)
        built = cls(*arguments)
        if state is not None:
            built.__setstate__(state)
        return built

    def _class(self, path: str) -> type[Any]:
        found = self._classes.get(path)
        if found is None:
            found = self._classes[path] = resolve_class(path, self._modules, self._code)
        return found


class _Reader:
    def __init__(self, state: bytes | memoryview) -> None:
        self._state = memoryview(state)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._state) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise ValueError(f"{size - self.left} bytes are missing")
        self._at += size
        return self._state[self._at - size : self._at]

    def number(self, kind: str) -> Any:
        if kind == "int":
            return int.from_bytes(self.take(8), "little", signed=True)
        if kind == "float":
            return struct.unpack("<d", self.take(8))[0]
        dtype = _plain_dtype(kind)
        return np.frombuffer(self.take(dtype.itemsize), dtype=dtype)[0]

    def array(self, kind: Any, ndim: int, order: Any) -> np.ndarray[Any, Any]:
        dtype = _plain_dtype(kind)
        shape = struct.unpack(f"<{ndim}I", self.take(4 * ndim))
        count = math.prod(shape)
        raw = np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype, count=count)
        # A copy: compiled estimators want aligned, writable memory.
        return raw.copy().reshape(shape, order=order)

    def blob(self) -> bytes:
        (size,) = struct.unpack("<Q", self.take(8))
        return bytes(self.take(size))


def _numpy_name(node: Node, _: _Reader) -> Any:
    found = getattr(np, node[1], None)
    if node[0] == "type" and isinstance(found, type) and issubclass(found, np.generic):
        return found
    if node[0] == "ufunc" and isinstance(found, np.ufunc):
        return found
    raise ModelError(f"The stored model wants numpy.{node[1]}: not allowed.")


def _random(node: Node, reader: _Reader) -> Any:
    state = json.loads(reader.blob())
    if not isinstance(state, dict) or state.get("bit_generator") not in _SOURCES:
        raise ValueError("a random number generator of an unknown kind")
    source = getattr(np.random, state["bit_generator"])()
    inner = state["state"]
    inner.update({k: np.array(v, dtype=np.uint64) for k, v in inner.items() if type(v) is list})
    source.state = state
    return (
        np.random.RandomState(source) if node[1] == "RandomState" else np.random.Generator(source)
    )


def _skops(node: Node, reader: _Reader) -> Any:
    built = load_skops(reader.blob())
    if f"{type(built).__module__}.{type(built).__qualname__}" != node[1]:
        raise ModelError(f"The stored model is a {type(built).__name__}, not {node[1]}.")
    return built


_SOURCES = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_LEAVES: Mapping[str, Callable[[Node, _Reader], Any]] = {
    "const": lambda node, _: node[1],
    "float": lambda node, _: float(node[1]),
    "number": lambda node, reader: reader.number(node[1]),
    "array": lambda node, reader: reader.array(node[1], node[2], node[3]),
    "records": lambda node, reader: reader.array(node[1], node[2], node[3]),
    "random": _random,
    "labels": lambda node, _: np.array(node[1], dtype=object),
    "slice": lambda node, _: slice(*node[1]),
    "dtype": lambda node, _: _plain_dtype(node[1]),
    "ufunc": _numpy_name,
    "type": _numpy_name,
    "skops": _skops,
}


def _plain_dtype(kind: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(kind)
    if dtype.hasobject:
        raise ModelError(f"The stored model holds an array of {kind}: not allowed.")
    return dtype


def encode(estimator: Any) -> Encoded:
    """Encode a fitted estimator.

    Args:
        estimator: An estimator of scikit-learn (also pipelines and column transformers), XGBoost
            or LightGBM, or one of your own whose attributes are numbers, text, lists, dicts,
            numpy arrays and functions, or such estimators.

    Raises:
        ModelError: Something in it cannot be stored without pickle; names the attribute.
    """
    return Encoder().encode(estimator)


def decode(
    template: str,
    state: bytes | memoryview,
    modules: Collection[str] = (),
    *,
    trust_pickle: bool = False,
) -> Any:
    """Decode a fitted estimator; its predictions are bit-identical.

    Args:
        template: The template that `encode` gave.
        state: The state that `encode` gave.
        modules: Modules besides scikit-learn, XGBoost and LightGBM whose estimator classes may
            be built; never taken from the stored model itself.
        trust_pickle: Unpickle what was pickled, which runs whatever code it holds.

    Raises:
        ModelError: The parts are damaged or name a class that is not allowed.
    """
    return Decoder(template, modules, trust_pickle=trust_pickle).decode(state)


def prove_round_trip(estimator: Any, encoded: Encoded, features: np.ndarray[Any, Any]) -> None:
    """Decode what was encoded and compare predictions, bit for bit.

    Args:
        estimator: The fitted estimator.
        encoded: What `encode` made of it.
        features: Rows to predict.

    Raises:
        ModelError: The decoded estimator fails or predicts something else.
    """
    name = type(estimator).__name__
    classes = class_map(estimator)
    # It was made here, a moment ago.
    again = Decoder(encoded.template, classes=classes, trust_pickle=True).decode(encoded.state)
    hint = "keep what it learns in plain attributes: numbers, text, lists and numpy arrays"
    try:
        found = np.asarray(again.predict(features))
    except Exception as error:
        raise ModelError(
            f"{name} cannot be stored without pickle: decoded, it raised "
            f"{type(error).__name__}: {error}",
            hint=hint,
        ) from error
    expected = np.asarray(estimator.predict(features))
    if found.dtype != expected.dtype or found.tobytes() != expected.tobytes():
        raise ModelError(
            f"{name} cannot be stored without pickle: decoded, it predicts otherwise.", hint=hint
        )


def class_map(estimator: Any) -> dict[str, type[Any]]:
    """The classes of an estimator and of what it holds, by full name."""
    classes: dict[str, type[Any]] = {}
    _collect_classes(estimator, classes)
    return classes


def _collect_classes(value: Any, found: dict[str, type[Any]]) -> None:
    if isinstance(value, list | tuple):
        for each in value:
            _collect_classes(each, found)
    elif isinstance(value, dict):
        _collect_classes(list(value.values()), found)
    elif _is_built(value):
        cls = type(value)
        path = f"{cls.__module__}.{cls.__qualname__}"
        found[path] = cls
        _collect_classes(list(vars(value).values()), found)


def _is_built(value: Any) -> bool:
    """Whether it is an estimator, or a module of PyTorch."""
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    return hasattr(value, "fit") or hasattr(value, "named_parameters")


def is_pickled(template: str) -> bool:
    """Whether members of a template are pickled."""
    return bool(json.loads(template)["root"][0] == "pickle")


def template_modules(template: str) -> tuple[str, ...]:
    """The modules outside the allow-list whose classes a template names."""
    modules = {path.rpartition(".")[0] for path in _class_paths(json.loads(template)["root"])}
    return tuple(sorted(m for m in modules if not trusted_module(m)))


def _class_paths(node: Any) -> Iterator[str]:
    """The classes that a node names, by full name."""
    if isinstance(node, dict):
        if isinstance(node.get("class"), str):  # a module of PyTorch
            yield node["class"]
        node = list(node.values())
    elif not isinstance(node, list):
        return
    elif node and node[0] in ("object", "net"):
        yield str(node[1])
    elif node and node[0] == "keras":
        yield from keras_classes(node)
    for child in node:
        yield from _class_paths(child)
