"""MLflow's registry as it is read: names, pages, versions and pointers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shoal.tracking.version import ModelVersion, Pointers

__all__ = ["all_pages", "listed", "model_version", "named", "pointers_of"]


def pointers_of(model: Any) -> Pointers:
    """Where the aliases of MLflow's registered model point."""
    newest = max(model.latest_versions, key=lambda version: int(version.version), default=None)
    return Pointers(
        name=model.name,
        aliases={alias: int(number) for alias, number in model.aliases.items()},
        newest=None if newest is None else int(newest.version),
        tags=dict(model.tags),
        own=newest is not None and "shoal.fingerprint" in newest.tags,
    )


def model_version(item: Any, aliases: Iterable[str]) -> ModelVersion:
    """A version as Shoal knows it, from MLflow's."""
    return ModelVersion(
        name=item.name,
        version=int(item.version),
        run_id=item.run_id or "",
        aliases=tuple(sorted(aliases)),
        source=item.source or "",
        tags=dict(item.tags),
        created=(item.creation_timestamp or 0) / 1000,
    )


def named(name: str) -> str:
    """MLflow's filter text for one name; it knows both quotes, and no way to escape one."""
    quote = '"' if "'" in name else "'"
    return f"name={quote}{name}{quote}"


def listed(words: list[str]) -> str:
    """Words for a message."""
    return ", ".join(words) if words else "none"


def all_pages(search: Any, text: str | None) -> list[Any]:
    """Everything that a search finds, page after page."""
    found: list[Any] = []
    token = None
    while True:
        page = search(filter_string=text, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
