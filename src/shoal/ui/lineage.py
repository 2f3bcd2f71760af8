"""The lineage page: the graph, and on demand where a column comes from and goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shoal.errors import TableNotFound
from shoal.ui.lineagedata import Graph, columns_of, graph
from shoal.ui.page import part, render
from shoal.ui.routes import Missing, Router

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk
    from shoal.workspace.lineage import Branch

__all__ = ["add_lineage"]


def add_lineage(router: Router) -> None:
    """Adds the routes of lineage."""
    router.page("/lineage", _page)
    router.page("/part/lineage", _part)


def _page(desk: Desk, request: Request) -> Response:
    found = graph(desk)
    focus = request.query_params.get("focus", "")
    if focus and focus not in found.nodes:
        focus = ""
    key = (tuple(found.nodes.values()), found.edges)
    return render(
        request, desk, "lineage.html", page="lineage", title="Lineage", count=len(found.nodes),
        drawing=desk.cache.get("drawing", key, lambda: _drawing(found)), laid=found.laid,
        focus=focus, detail=_detail(desk, found, request) if focus else None,
    )  # fmt: skip


def _drawing(found: Graph) -> Markup:
    """The nodes and edges as SVG."""
    drawn = [
        {"node": found.nodes[name], "x": round(x), "y": round(y)}
        for name, (x, y) in found.laid.places.items()
    ]
    drawn.sort(key=lambda one: (one["x"], one["y"]))
    paths = [
        {"from": a, "to": b, "d": _curve(points)} for (a, b), points in found.laid.paths.items()
    ]
    return part("part_graph.html", drawn=drawn, paths=paths)


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """A smooth path through an edge's points."""
    (x, y), *rest = points
    text = [f"M{x:.0f} {y:.0f}"]
    for a, b in rest:
        middle = (x + a) / 2
        text.append(f"C{middle:.0f} {y:.0f} {middle:.0f} {b:.0f} {a:.0f} {b:.0f}")
        x, y = a, b
    return "".join(text)


def _part(desk: Desk, request: Request) -> Response:
    found = graph(desk)
    return render(request, desk, "part_lineage.html", detail=_detail(desk, found, request))


def _detail(desk: Desk, found: Graph, request: Request) -> dict[str, object]:
    """What is told beside the graph of one node, and of one of its columns."""
    focus = request.query_params.get("focus", "")
    column = request.query_params.get("column", "")
    if focus not in found.nodes:
        raise Missing(f"Nothing in the lineage is called '{focus}'.")
    lineage = columns_of(desk)
    table = desk.find(focus)
    known = [c.name for c in desk.summary(table).columns] if table is not None else []
    columns = known or sorted(lineage.columns.get(focus, ()))
    up: list[tuple[int, Branch]] = []
    down: list[tuple[int, Branch]] = []
    if column:
        try:
            up = _flat(lineage.upstream(f"{focus}.{column}").below)
            down = _flat(lineage.downstream(f"{focus}.{column}").below)
        except TableNotFound as error:
            up = down = []
            if column not in columns:
                raise Missing(error.message, hint=error.hint) from error
    return {
        "node": found.nodes[focus],
        "above": sorted({a for a, b in found.edges if b == focus}),
        "below": sorted({b for a, b in found.edges if a == focus}),
        "columns": columns,
        "column": column,
        "up": up,
        "down": down,
        "nodes": found.nodes,
    }


def _flat(branches: Iterable[Branch], depth: int = 0) -> list[tuple[int, Branch]]:
    found = []
    for branch in branches:
        found.append((depth, branch))
        if depth < 12:
            found += _flat(branch.below, depth + 1)
    return found[:400]
