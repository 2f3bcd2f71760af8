"""An input file as it was listed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["InputFile"]


@dataclass(frozen=True, kw_only=True, order=True)
class InputFile:
    """One input file as it was listed.

    Args:
        path: Absolute path.
        size: Bytes.
        modified: Modification time, nanoseconds since 1970.
        partition: Columns in the names of its folders (``day=2026-01-01``), with their values.
    """

    path: str
    size: int
    modified: int
    partition: tuple[tuple[str, str | None], ...] = ()
