"""Strict reading of settings: unknown keys and wrong types name what would be right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ProjectError, nearest

__all__ = ["known_keys", "table", "text"]


def known_keys(found: Mapping[str, Any], allowed: Collection[str], file: Path, where: str) -> None:
    """Refuses a key that is not allowed, naming the nearest that is.

    Raises:
        ProjectError: A key is unknown.
    """
    for key in found:
        if key in allowed:
            continue
        close = nearest(str(key), allowed)
        raise ProjectError(
            f"{file.name}: unknown key '{key}'{where}; known are {', '.join(sorted(allowed))}.",
            hint=f"Did you mean '{close}'?" if close else f"Remove it from {file}.",
        )


def text(found: Mapping[str, Any], key: str, file: Path, default: str | None = None) -> str | None:
    """A text value, or the default when the key is absent.

    Raises:
        ProjectError: The value is no text, or empty.
    """
    value = found.get(key, default)
    if value is not None and (not isinstance(value, str) or not value):
        raise ProjectError(
            f"{file.name}: '{key}' must be text; found {value!r}.", hint=f"Mend {key} in {file}."
        )
    return value


def table(found: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    """A mapping, empty when the key is absent.

    Raises:
        ProjectError: The value is no mapping.
    """
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProjectError(
            f"{file.name}: '{key}' must hold keys and values; found {value!r}.",
            hint=f"Mend {key} in {file}.",
        )
    return value
