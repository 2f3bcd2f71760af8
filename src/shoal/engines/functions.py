"""What a Python function does, as text that is the same in every process."""

from __future__ import annotations

import sys
import sysconfig
import types

__all__ = ["describe"]


def describe(value: object) -> str:
    """A value by what it says: functions by code, constants, defaults and the globals they use.

    Functions and classes of installed packages count by their name only.

    Args:
        value: A function, or anything that one refers to.
    """
    return _describe(value, set())


def _describe(value: object, seen: set[int]) -> str:
    if isinstance(value, types.FunctionType | type | types.ModuleType):
        name = getattr(value, "__qualname__", value.__name__)
        if id(value) in seen or isinstance(value, types.ModuleType) or _installed(value):
            return name
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            return _function(value, seen)
        return _class(value, seen)
    if isinstance(value, types.CodeType):
        constants = [_describe(constant, seen) for constant in value.co_consts]
        return f"{value.co_name}{value.co_code.hex()}{constants}{value.co_names}"
    if isinstance(value, frozenset | set):
        return str(sorted(_describe(item, seen) for item in value))
    if isinstance(value, list | tuple):
        return str([_describe(item, seen) for item in value])
    if isinstance(value, dict):
        return str([(_describe(k, seen), _describe(v, seen)) for k, v in value.items()])
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _function(function: types.FunctionType, seen: set[int]) -> str:
    used = {
        name: _describe(function.__globals__[name], seen)
        for name in sorted(_names(function.__code__))
        if name in function.__globals__
    }
    cells = [_describe(cell.cell_contents, seen) for cell in function.__closure__ or ()]
    defaults = _describe((function.__defaults__, function.__kwdefaults__), seen)
    return f"{_describe(function.__code__, seen)}{cells}{defaults}{used}"


def _class(kind: type, seen: set[int]) -> str:
    parts = {
        name: _describe(getattr(part, "__func__", part), seen)
        for name, part in sorted(vars(kind).items())
        if name not in {"__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__"}
    }
    return f"{kind.__qualname__}{[base.__qualname__ for base in kind.__bases__]}{parts}"


def _names(code: types.CodeType) -> set[str]:
    """Names that code, and the code inside it, may take from the globals."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _installed(value: object) -> bool:
    """True for what comes with Python or an installed package."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__ in sys.builtin_module_names
    return any(file.startswith(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib"))
