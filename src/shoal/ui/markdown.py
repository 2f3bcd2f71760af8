"""The little Markdown that model cards are written in, taken apart into blocks for a template."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["blocks"]


def blocks(text: str) -> list[tuple[str, Any]]:
    """Headings, lists, tables and paragraphs, in order; their texts stay plain.

    Args:
        text: Markdown as `shoal.tracking.card` writes it.

    Returns:
        ``("h", text)``, ``("ul", [text])``, ``("table", [[cell]])`` and ``("p", text)``.
    """
    found: list[tuple[str, Any]] = []
    for line in text.splitlines():
        plain = re.sub(r"[`*]", "", line).strip()
        if not plain:
            continue
        if line.startswith("#"):
            found.append(("h", plain.lstrip("# ")))
        elif line.startswith("- "):
            _extend(found, "ul", plain[2:])
        elif line.startswith("|"):
            cells = [cell.strip() for cell in plain.strip("|").split("|")]
            if not all(set(cell) <= set("-: ") for cell in cells):
                _extend(found, "table", cells)
        else:
            found.append(("p", plain))
    return found


def _extend(found: list[tuple[str, Any]], kind: str, item: Any) -> None:
    if found and found[-1][0] == kind:
        found[-1][1].append(item)
    else:
        found.append((kind, [item]))
