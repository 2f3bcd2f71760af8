"""A person's own classes: their source goes with the model, and runs only where it is trusted.

An artifact keeps the text of the modules that its members' classes come from, and of those of the
same project that these import. Opening it runs none of that, until somebody names the module.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from shoal.errors import ModelError

__all__ = [
    "RecordedCode",
    "has_source",
    "is_own_file",
    "is_recorded",
    "own_code",
    "own_digests",
    "read_code",
    "write_code",
]

# The package that a project's own files are run in: they are no modules that can be imported.
_PROJECT = "shoal_project."

_lock = Lock()


def is_recorded(module: str) -> bool:
    """Whether a module is a file of a project's models, whose code goes with its models."""
    return module.startswith(_PROJECT)


def has_source(cls: type[Any]) -> bool:
    """Whether a class comes from a file of its module's name, here or on another machine."""
    tail = f"{cls.__module__.replace('.', os.sep)}.py"
    files = (f.__code__.co_filename for f in vars(cls).values() if hasattr(f, "__code__"))
    return is_recorded(cls.__module__) or any(file.endswith(tail) for file in files)


def is_own_file(path: str) -> bool:
    """Whether a source file is the person's own: neither installed nor Shoal's."""
    return not path.startswith(_installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    # Compared as text: there are some thousand modules.
    paths = [sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*(f"{path}{os.sep}" for path in paths), f"{Path(__file__).parents[1]}{os.sep}", "<")


def own_code(modules: Collection[str], function: Any) -> dict[str, str]:
    """The source of modules that members' classes come from, and of what they import beside them.

    Args:
        modules: The modules' names.
        function: The model's declared function: its file may be one of them.

    Returns:
        Text by module name; a module whose source is not at hand is left out.
    """
    found: dict[str, str] = {}
    scope = getattr(function, "__globals__", {})
    own, file = str(scope.get("__name__", "")), scope.get("__file__")
    waiting: list[tuple[str, Mapping[str, Any]]] = []
    for name in modules:
        module = sys.modules.get(name)
        if name == own:
            waiting.append((name, scope))
        elif module is not None:
            waiting.append((name, vars(module)))
    folder = _root(own, file)
    while waiting:
        name, names = waiting.pop()
        path = names.get("__file__")
        if name in found or not path or not is_own_file(str(path)):
            continue
        try:
            found[name] = Path(str(path)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for module in _reached(names.values()):
            inside = getattr(module, "__file__", None)
            if folder and inside and Path(inside).resolve().is_relative_to(folder):
                waiting.append((module.__name__, vars(module)))
                waiting += _packages(module.__name__)
    return found


def own_digests(function: Any) -> dict[str, str]:
    """SHA-256 of the sources that a declared function's file consists of, by module name.

    Args:
        function: The declared function.
    """
    module = str(getattr(function, "__module__", ""))
    code = own_code([module], function)
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in code.items()}


def _root(own: str, file: Any) -> Path | None:
    if not file or not is_recorded(own):
        return None
    # A project's models lie in a folder of it.
    return Path(str(file)).resolve().parent.parent


def _packages(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in sys.modules:
            yield name, vars(sys.modules[name])


def _reached(values: Collection[Any]) -> Iterator[ModuleType]:
    for value in list(values):
        if isinstance(value, ModuleType):
            yield value
        else:
            module = sys.modules.get(str(getattr(value, "__module__", None)))
            if module is not None:
                yield module


def write_code(folder: Path, code: Mapping[str, str]) -> dict[str, str]:
    """Keep modules' source in an artifact.

    Args:
        folder: The artifact.
        code: Text by module name.

    Returns:
        SHA-256 of each text, by module name.
    """
    for name, text in code.items():
        path = folder / "code" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in code.items()}


def read_code(folder: Path, digests: Mapping[str, str]) -> RecordedCode:
    """The source that an artifact keeps.

    Args:
        folder: The artifact.
        digests: What `write_code` gave.

    Raises:
        ModelError: A file is missing, or is not what was written.
    """
    texts = {}
    for name, digest in digests.items():
        if not all(part.isidentifier() for part in name.split(".")):
            raise ModelError(f"The artifact's code names a module {name!r}, which is no name.")
        path = folder / "code" / f"{name}.py"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"The artifact's code {path} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(f"The artifact's code {path} was changed after training.")
        texts[name] = data.decode()
    return RecordedCode(texts)


class RecordedCode:
    """Modules as text, run at their first use.

    Args:
        texts: Source by module name.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._modules: dict[str, ModuleType] = {}

    def __contains__(self, module: object) -> bool:
        return module in self._texts

    def find(self, module: str, name: str) -> Any:
        """What a module defines by a name; None when it does not. This runs the module's code.

        Raises:
            ModelError: The code fails.
        """
        with _lock:
            if module not in self._modules:
                self._run(module)
        return getattr(self._modules[module], name, None)

    def _run(self, module: str) -> None:
        # Another version's modules of the same names stay as they are, and so do installed ones.
        before = {n: sys.modules.get(n) for n in self._texts}
        finder = _Finder(self._texts)
        for name in self._texts:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, finder)
        try:
            package = module.partition(".")[0]
            if is_recorded(module) and package not in sys.modules:
                sys.modules[package] = ModuleType(package)
                sys.modules[package].__path__ = []
                before[package] = None
            importlib.import_module(module)
            self._modules |= {n: sys.modules[n] for n in self._texts if n in sys.modules}
        except Exception as error:
            raise ModelError(
                f"The model's own code {module} failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(finder)
            for name, known in before.items():
                if known is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = known


class _Finder(importlib.abc.Loader):
    """Finds the recorded modules before others."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The import system's question; None for a module that is not recorded."""
        _ = path, target
        if name not in self._texts:
            inner = any(known.startswith(f"{name}.") for known in self._texts)
            return importlib.machinery.ModuleSpec(name, self, is_package=True) if inner else None
        package = any(known.startswith(f"{name}.") for known in self._texts)
        return importlib.machinery.ModuleSpec(name, self, is_package=package)

    def create_module(self, spec: Any) -> None:
        """The import system's own."""
        _ = spec

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's text."""
        text = self._texts.get(module.__name__, "")
        exec(compile(text, f"<recorded {module.__name__}>", "exec"), vars(module))  # noqa: S102
