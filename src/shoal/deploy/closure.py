"""The serving closure: what a server of one model imports, and what that requires.

Nothing is guessed. It starts from the requirements of the extra ``serve``; then the server itself
runs in a process that sees no other library (`shoal.deploy.probe`), and what Shoal's own code asks
for there is added until nothing is missing and each sample is answered right.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import DeployError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["BASE", "Closure", "closure_of", "hidden_modules", "locked_hashes", "requirements_text"]

# What each server imports, whatever its model.
BASE = ("click", "numpy", "pandas", "pyarrow", "scikit-learn")
_EXTRA = "serve"


@dataclass(frozen=True, kw_only=True)
class Closure:
    """Distributions that a server needs.

    Attributes:
        roots: What Shoal itself asks for, sorted.
        versions: Installed version of each distribution, by its normalised name, sorted.
        edges: What each of them requires, among these.
    """

    roots: tuple[str, ...]
    versions: Mapping[str, str]
    edges: Mapping[str, tuple[str, ...]]


def closure_of(roots: Iterable[str]) -> Closure:
    """The closure of some distributions, as they are installed here.

    Args:
        roots: Names, besides what each server needs.

    Raises:
        DeployError: One is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    first = [Requirement(name) for name in (*BASE, *roots)] + _serving()
    versions: dict[str, str] = {}
    edges: dict[str, set[str]] = {}
    todo = [(requirement, "") for requirement in first]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, parent = todo.pop()
        name = canonicalize_name(requirement.name)
        if parent:
            edges[parent].add(name)
        try:
            found = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            raise DeployError(
                f"'{requirement.name}' is not installed, but {parent or 'serving'} needs it.",
                hint=f"pip install '{requirement}'",
            ) from None
        versions[name] = found.version
        edges.setdefault(name, set())
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += [(r, name) for r in _required(found.requires, extra)]
    return Closure(
        roots=tuple(sorted({canonicalize_name(requirement.name) for requirement in first})),
        versions=dict(sorted(versions.items())),
        edges={name: tuple(sorted(edges[name])) for name in sorted(edges)},
    )


def _serving() -> list[Requirement]:
    """What the extra ``serve`` adds to Shoal."""
    requires = importlib.metadata.requires("shoal")
    plain = {str(requirement) for requirement in _required(requires, "")}
    return [r for r in _required(requires, _EXTRA) if str(r) not in plain]


def _required(texts: Sequence[str] | None, extra: str) -> list[Requirement]:
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in texts or ()]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def hidden_modules(closure: Closure) -> dict[str, str]:
    """Top-level modules that belong to no distribution of a closure, each with one that has it."""
    from packaging.utils import canonicalize_name

    hidden: dict[str, str] = {}
    for module, owners in importlib.metadata.packages_distributions().items():
        names = [canonicalize_name(owner) for owner in owners]
        if module != "shoal" and not any(name in closure.versions for name in names):
            hidden[module] = names[0]
    return hidden


def locked_hashes(
    closure: Closure, folders: Iterable[Path]
) -> tuple[dict[str, tuple[str, ...]], Path | None]:
    """SHA-256 of the files of each distribution, from the first uv.lock that pins all of them.

    Args:
        closure: The distributions.
        folders: Where to look, each with the folders above it.

    Returns:
        Hashes by name, and the lock file; nothing where no lock has these versions.
    """
    for folder in folders:
        for place in (folder.resolve(), *folder.resolve().parents):
            lock = place / "uv.lock"
            if not lock.is_file():
                continue
            found = _lock(lock)
            wanted = closure.versions.items()
            if all(found.get(pair) for pair in wanted):
                return {name: found[name, version] for name, version in wanted}, lock
    return {}, None


def _lock(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    try:
        packages = tomllib.loads(path.read_text(encoding="utf-8")).get("package", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(
            f"{path} cannot be read: {error}", hint="Make it again: uv lock"
        ) from error
    found = {}
    for package in packages:
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        hashes = sorted({file["hash"] for file in files if "hash" in file})
        found[package["name"], package.get("version", "")] = tuple(hashes)
    return found


def requirements_text(
    closure: Closure, hashes: Mapping[str, Sequence[str]], wheel: Path, wheel_hash: str
) -> str:
    """The content of ``requirements.txt``: exact versions, with hashes where they are known.

    Args:
        closure: The distributions.
        hashes: Their files' hashes; empty for none.
        wheel: Shoal's own wheel, relative to the requirements.
        wheel_hash: Its SHA-256.
    """
    lines = [(f"./{wheel.as_posix()}", [f"sha256:{wheel_hash}"])]
    lines += [(f"{n}=={v}", list(hashes.get(n, ()))) for n, v in closure.versions.items()]
    if not hashes:
        lines[0] = (lines[0][0], [])  # pip asks for all hashes or none
    return "".join(
        " \\\n".join([line, *(f"    --hash={value}" for value in values)]) + "\n"
        for line, values in lines
    )
