"""Small charts as SVG that the server draws: distributions, trends, timings.

Shapes carry classes, never styles, so that the stylesheet colours them in both themes and the
page's security policy needs no exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

from shoal.ui.page import number, seconds_text

__all__ = ["Span", "bars", "histogram", "shape", "spark", "trend", "waterfall"]


def _markup(parts: Sequence[str]) -> Markup:
    from markupsafe import Markup

    return Markup("".join(parts))  # noqa: S704  (texts in it were escaped one by one)


def _opened(label: str, width: int, height: int, role: str = "img") -> str:
    """A drawing's start; what is an image holds no links."""
    box = f'class="chart" viewBox="0 0 {width} {height}"'
    return f'<svg {box} role="{role}" aria-label="{_escape(label)}">'


def _escape(text: object) -> str:
    from markupsafe import escape

    return str(escape(text))


def histogram(
    values: np.ndarray[Any, Any],
    *,
    label: str,
    other: np.ndarray[Any, Any] | None = None,
    bins: int | None = None,
    href: Any = None,
    width: int = 720,
    height: int = 170,
) -> Markup:
    """How values are distributed; the last bar holds all above the 99th percentile.

    Args:
        values: Finite numbers.
        label: What they are, for people who hear the page.
        other: More numbers, drawn behind for comparison.
        bins: How many bars; by default more for more values.
        href: Gives the address of a bar from its bounds.
        width: Of the drawing, in its own units.
        height: Of the drawing.
    """
    import numpy as np

    if not len(values):
        return _markup(['<p class="soft">Nothing was measured.</p>'])
    bins = bins or int(min(max(1.5 * len(values) ** 0.5, 12), 60))
    both = values if other is None or not len(other) else np.concatenate([values, other])
    low, high = float(both.min()), float(np.quantile(both, 0.99))
    if low >= 0 and low < 0.25 * high:
        low = 0.0
    if high <= low:
        high = low + 1.0
    edges = np.linspace(low, high, bins + 1)
    counts = _counts(values, edges)
    behind = None if other is None else _counts(other, edges)
    top = max(int(counts.max()), int(behind.max()) if behind is not None else 0, 1)
    base, left, right = height - 22, 8, width - 8
    step = (right - left) / bins
    parts = [_opened(label, width, height, "img" if href is None else "group")]
    for i, count in enumerate(counts.tolist()):
        x, upper = left + i * step, float(values.max()) if i == bins - 1 else float(edges[i + 1])
        title = f"{number(float(edges[i]))} to {number(upper)}: {count:,}"
        if behind is not None and behind[i]:
            tall = (base - 8) * int(behind[i]) / top
            parts.append(
                f'<rect class="second" opacity=".35" x="{x:.1f}" y="{base - tall:.1f}" '
                f'width="{step - 1:.1f}" height="{tall:.1f}"/>'
            )
        tall = (base - 8) * count / top
        bar = (
            f'<rect class="bars" x="{x:.1f}" y="{base - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{title}</title></rect>'
        )
        if href is not None and count:
            target = _escape(href(float(edges[i]), upper))
            bar = f'<a href="{target}" aria-label="{title}" tabindex="-1">{bar}</a>'
        parts.append(bar)
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>')
    for i in range(5):
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        x, value = left + (right - left) * i / 4, low + (high - low) * i / 4
        more = "+" if i == 4 and float(values.max()) > high else ""
        parts.append(
            f'<text x="{x:.0f}" y="{height - 6}" text-anchor="{anchor}">{number(value, 3)}{more}'
            "</text>"
        )
    return _markup([*parts, "</svg>"])


def _counts(values: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    found, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return found


def shape(values: np.ndarray[Any, Any], *, label: str) -> Markup:
    """How values are distributed, without an axis.

    Args:
        values: Finite numbers.
        label: What they are, for people who hear the page.
    """
    import numpy as np

    if not len(values):
        return _markup(['<span class="soft">none</span>'])
    width, height, count = 180, 40, 24
    found, _ = np.histogram(values, count)
    step, top = width / count, max(int(found.max()), 1)
    parts = [_opened(label, width, height)]
    for i, many in enumerate(found.tolist()):
        tall = (height - 2) * many / top
        parts.append(
            f'<rect class="bars" x="{i * step:.1f}" y="{height - 1 - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}"/>'
        )
    line = f'<line class="axis" x1="0" x2="{width}" y1="{height - 0.5}" y2="{height - 0.5}"/>'
    return _markup([*parts, line, "</svg>"])


def bars(counts: Sequence[tuple[str, int]], *, label: str) -> Markup:
    """The most frequent values, each as a bar with its name.

    Args:
        counts: Values and how often they are there.
        label: What they are, for people who hear the page.
    """
    if not counts:
        return _markup(['<span class="soft">none</span>'])
    width, row = 180, 15
    most = max(count for _, count in counts) or 1
    told = ", ".join(f"{name} {count:,}" for name, count in counts)
    parts = [_opened(f"{label}: {told}", width, row * len(counts))]
    for i, (name, count) in enumerate(counts):
        short = name if len(name) <= 12 else name[:11] + "…"
        parts.append(f'<text x="76" y="{i * row + 11}" text-anchor="end">{_escape(short)}</text>')
        wide = max((width - 82) * count / most, 1)
        parts.append(
            f'<rect class="bars" x="82" y="{i * row + 2}" width="{wide:.1f}" height="{row - 5}">'
            f"<title>{_escape(name)}: {count:,}</title></rect>"
        )
    return _markup([*parts, "</svg>"])


def spark(values: Sequence[float | None], *, label: str, low: float | None = None) -> Markup:
    """A trend without axes, the newest value last.

    Args:
        values: Numbers; None leaves a gap.
        label: For people who hear the page.
        low: Lower end of the scale; the lowest value by default.
    """
    known = [v for v in values if v is not None]
    if not known:
        return _markup(['<span class="soft">none</span>'])
    bottom, top = min(known) if low is None else low, max(known)
    span = (top - bottom) or 1.0
    step = 112 / max(len(values) - 1, 1)
    points = [
        (4 + i * step, 22 - 18 * (v - bottom) / span) for i, v in enumerate(values) if v is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return _markup(
        [
            f'<svg class="spark" viewBox="0 0 120 26" role="img" aria-label="{_escape(label)}">',
            f'<polyline class="line" points="{line}"/>',
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></svg>',
        ]
    )


def trend(
    points: Sequence[tuple[str, float | None]],
    *,
    label: str,
    low: float,
    high: float,
    unit: str = "",
    width: int = 360,
    height: int = 96,
) -> Markup:
    """Values over versions or runs, each with its title.

    Args:
        points: Title and value of each; None leaves a gap.
        label: For people who hear the page.
        low: Lower end of the scale.
        high: Upper end.
        unit: Put behind the scale's numbers.
        width: Of the drawing, in its own units.
        height: Of the drawing.
    """
    left, right, top, base = 44, width - 8, 10, height - 12
    span = (high - low) or 1.0
    step = (right - left) / max(len(points) - 1, 1)
    placed = [
        (left + i * step, base - (base - top) * (v - low) / span, title)
        for i, (title, v) in enumerate(points)
        if v is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
    parts = [
        _opened(label, width, height),
        f'<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>',
        f'<line class="axis" x1="{left}" x2="{right}" y1="{top}" y2="{top}"/>',
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{number(high, 3)}{unit}</text>',
        f'<text x="{left - 6}" y="{base + 4}" text-anchor="end">{number(low, 3)}{unit}</text>',
        f'<polyline class="line" points="{line}"/>',
    ]
    parts += [
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_escape(title)}</title>'
        "</circle>"
        for x, y, title in placed
    ]
    return _markup([*parts, "</svg>"])


@dataclass(frozen=True, kw_only=True)
class Span:
    """One bar of a waterfall.

    Args:
        label: What took the time.
        start: Seconds since the beginning.
        seconds: How long it took.
        state: ``good``, ``warn``, ``bad`` or ``idle``.
        href: Where it leads.
    """

    label: str
    start: float
    seconds: float
    state: str = "good"
    href: str = ""


def waterfall(spans: Sequence[Span], *, label: str, width: int = 900) -> Markup:
    """When each part of a run began and how long it took."""
    if not spans:
        return _markup(['<p class="soft">Nothing took time.</p>'])
    row, left, right = 24, 240, width - 70
    total = max(span.start + span.seconds for span in spans) or 1.0
    height = row * len(spans) + 22
    scale = (right - left) / total
    parts = [_opened(label, width, height, "group")]
    for i in range(5):
        x = left + (right - left) * i / 4
        parts.append(f'<line class="axis" x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="{height - 18}"/>')
        parts.append(
            f'<text x="{x:.0f}" y="{height - 4}" text-anchor="middle">'
            f"{seconds_text(total * i / 4)}</text>"
        )
    for i, span in enumerate(spans):
        y, x = i * row + 3, left + span.start * scale
        wide = max(span.seconds * scale, 2)
        name = span.label if len(span.label) <= 36 else span.label[:35] + "…"
        text = f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{_escape(name)}</text>'
        if span.href:
            text = f'<a href="{_escape(span.href)}">{text}</a>'
        took = f"<title>{_escape(span.label)}: {seconds_text(span.seconds)}</title>"
        box = f'x="{x:.1f}" y="{y}" width="{wide:.1f}" height="15" rx="3"'
        parts += [
            text,
            f'<rect class="{span.state}" {box}>{took}</rect>',
            f'<text x="{x + wide + 6:.1f}" y="{y + 12}">{seconds_text(span.seconds)}</text>',
        ]
    return _markup([*parts, "</svg>"])
