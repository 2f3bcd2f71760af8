"""What makes a member what it is besides its rows: the definition, the code and the libraries."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from shoal.models import ModelDeclaration
from shoal.training.ship import is_own, is_own_file
from shoal.training.source import Source

__all__ = ["member_fingerprint", "search_fingerprint"]

_PLAIN = (str, int, float, bool, bytes, tuple, type(None))


def member_fingerprint(declaration: ModelDeclaration, source: Source) -> str:
    """Definition and environment, as ``<16 hex digits>-<16 hex digits>``.

    The definition is the declaration, the types of its columns, and the code of the person's own
    that the function reaches by name. The environment is the version of Python and of the
    libraries that the estimator's classes come from.
    """
    return f"{_digest(_definition(declaration, source))}-{_digest(_versions(declaration))}"


def search_fingerprint(declaration: ModelDeclaration, source: Source) -> str:
    """The definition and the space of a declaration's search, whatever its number of trials."""
    search = declaration.search
    assert search is not None
    code = sorted(_reached(search.space)) if hasattr(search.space, "__code__") else []
    definition = _definition(replace(declaration, search=None), source)
    return _digest([definition, search.description(), code])


def _definition(declaration: ModelDeclaration, source: Source) -> list[Any]:
    columns = {f.name: f.dtype for f in source.features}
    roles = filter(None, [declaration.time, declaration.weight])
    others = (declaration.target, *declaration.by, *roles)
    columns |= {n: str(source.schema.field(n).type) for n in others}
    return [declaration.fingerprint(), columns, sorted(_reached(declaration.function))]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _versions(declaration: ModelDeclaration) -> dict[str, str]:
    estimator = declaration.build()
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    tops = {type(part).__module__.partition(".")[0] for part in parts} - {"builtins", "__main__"}
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for top in sorted({*tops, "numpy", "scipy", "shoal", "sklearn"}):
        with contextlib.suppress(ImportError):
            found[top] = str(getattr(importlib.import_module(top), "__version__", ""))
    return found


def _reached(function: Any) -> Iterator[str]:
    """A text for each thing of the person's own that a function's code names, and so on."""
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, ModuleType | type):
            module = thing if isinstance(thing, ModuleType) else sys.modules.get(thing.__module__)
            if module is not None and is_own(module):
                yield _text_of(module)
            elif module is None and isinstance(thing, type):  # of a file that was run and left
                own = {n: v for n, v in vars(thing).items() if not n.startswith("__")}
                yield f"{thing.__qualname__} {_plain(own)}"
                waiting += [*thing.__bases__, *_functions(thing)]
            continue
        code = getattr(thing, "__code__", None)
        if code is not None and (thing is function or is_own_file(code.co_filename)):
            yield f"{thing.__qualname__} {_bytecode(code)}"
            used = _used(thing)
            yield from _plain(used)
            waiting += used.values()


def _plain(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {value!r}" for name, value in values.items() if isinstance(value, _PLAIN)]


def _functions(cls: type) -> Iterator[Any]:
    for value in vars(cls).values():
        parts = (value.fget, value.fset) if isinstance(value, property) else (value,)
        yield from filter(None, (getattr(part, "__func__", part) for part in parts))


def _used(function: Any) -> dict[str, Any]:
    """The globals and closed-over values that a function's code names."""
    scope = {**function.__globals__, **_closure(function)}
    return {name: scope[name] for name in _names(function.__code__) if name in scope}


def _text_of(module: ModuleType) -> str:
    try:
        text = Path(str(module.__file__)).read_bytes()
    except OSError:
        return module.__name__
    return f"{module.__name__} {hashlib.sha256(text).hexdigest()}"


def _closure(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _bytecode(code: CodeType) -> str:
    return repr((code.co_code.hex(), code.co_names, [_constant(c) for c in code.co_consts]))


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _bytecode(value)
    # The order of a set of texts differs from process to process.
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _names(code: CodeType) -> set[str]:
    inner = [_names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*inner)
