"""Templates, and how values are written on pages."""

from __future__ import annotations

import datetime as dt
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["STATIC", "ago", "bytes_text", "number", "part", "render", "short_value", "with_query"]

# An en dash, where a figure is not known.
NOTHING = "\N{EN DASH}"
_HERE = Path(__file__).parent
STATIC = _HERE / "static"

PAGES = (
    ("home", "/", "Home"),
    ("catalog", "/catalog", "Catalog"),
    ("lineage", "/lineage", "Lineage"),
    ("runs", "/runs", "Runs"),
    ("fleets", "/fleets", "Fleets"),
    ("endpoints", "/endpoints", "Endpoints"),
    ("sql", "/sql", "SQL"),
)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a person: whole ones with separators, others with some digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,.{digits}g}" if abs(value) < 1e4 else f"{value:,.0f}"


def bytes_text(value: float) -> str:
    """A size in bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def moment(value: dt.datetime | float | None) -> dt.datetime | None:
    """A time in UTC from a time or from ms since 1970."""
    if value is None:
        return None
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return dt.datetime.fromtimestamp(value / 1000, dt.UTC)


def ago(value: dt.datetime | float | None) -> str:
    """How long ago a time was."""
    at = moment(value)
    if at is None:
        return "never"
    seconds = (dt.datetime.now(dt.UTC) - at).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def clock(value: dt.datetime | float | None) -> str:
    """A time in full, UTC."""
    at = moment(value)
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def seconds_text(value: float | None) -> str:
    """A duration."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60)} s"


def short_value(value: object) -> str:
    """One value of a row, as text."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict | list):
        text = json.dumps(value, default=str, ensure_ascii=False)
    elif isinstance(value, bytes):
        text = f"{len(value):,} bytes"
    else:
        text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def with_query(request: Request, **changes: object) -> str:
    """This page's address with other parameters; None takes one away."""
    kept = [(k, v) for k, v in request.query_params.multi_items() if k not in changes]
    for name, value in changes.items():
        if isinstance(value, list | tuple):
            kept += [(name, str(item)) for item in value]
        elif value is not None:
            kept.append((name, str(value)))
    return f"{request.url.path}?{urlencode(kept)}" if kept else request.url.path


def segment_label(key: str) -> str:
    """A segment's key as a person reads it."""
    try:
        values = json.loads(key)
    except ValueError:
        return key
    if not isinstance(values, list):
        return key
    return " · ".join("null" if v is None else str(v) for v in values) or "all rows"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": number,
        "bytes": bytes_text,
        "ago": ago,
        "clock": clock,
        "seconds": seconds_text,
        "value": short_value,
        "segment": segment_label,
        "path": lambda text: quote(str(text), safe=""),
    }
    made.globals |= {"nav": PAGES, "with_query": with_query}
    return made


def part(template: str, **values: Any) -> Markup:
    """A part of a page, which other templates may hold."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))  # noqa: S704  (escaped by the template)


def render(
    request: Request, desk: Desk, template: str, *, status: int = 200, **values: Any
) -> Response:
    """A page.

    Args:
        request: What was asked for.
        desk: Names the project.
        template: File of the template.
        status: HTTP status.
        values: What the template shows.
    """
    from starlette.responses import HTMLResponse

    text = (
        _environment()
        .get_template(template)
        .render(
            request=request,
            visitor=getattr(request.state, "visitor", None),
            project=desk.name,
            **values,
        )
    )
    return HTMLResponse(text, status)
