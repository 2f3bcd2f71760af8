"""How values show themselves in a notebook: plain HTML that looks right in light and dark.

Everything is escaped; nothing is styled but by the notebook itself.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["card", "figure", "grid"]


def figure(value: object) -> str:
    """A value as text: numbers with separators and four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return "" if math.isnan(value) else f"{value:,.4g}"


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]], *, limit: int = 50) -> str:
    """A table.

    Args:
        columns: Heads.
        rows: Values.
        limit: Show at most so many rows; the others are counted.
    """
    shown: list[str] = []
    more = 0
    for row in rows:
        if len(shown) < limit:
            cells = "".join(f"<td>{html.escape(figure(value))}</td>" for value in row)
            shown.append(f"<tr>{cells}</tr>")
        else:
            more += 1
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    left = f"<p>and {more:,} more</p>" if more else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(shown)}</tbody></table>{left}"


def card(title: str, facts: Mapping[str, object], *parts: str) -> str:
    """A title, facts on one line, and parts that are HTML already.

    Args:
        title: What it is.
        facts: Names and values; those without a value are left out.
        parts: What follows.
    """
    told = [
        f"{html.escape(name)} <b>{html.escape(text)}</b>"
        for name, value in facts.items()
        if (text := figure(value))
    ]
    return f"<div><b>{html.escape(title)}</b><br>{' · '.join(told)}{''.join(parts)}</div>"
