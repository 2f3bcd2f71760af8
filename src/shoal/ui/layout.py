"""Where the nodes of a lineage graph are drawn: layers from left to right, few crossings.

After Sugiyama, Tagawa and Toda (1981): each node stands right of all that it comes from, edges over
several layers bend through places of their own, and each layer is ordered by the middle of its
neighbours, again and again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Laid", "lay_out"]

_SWEEPS = 6
_BENDS = 6_000


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A drawn graph.

    Args:
        places: Each node's left upper corner.
        paths: Each edge's points, from the right of its source to the left of its target.
        width: Of the drawing.
        height: Of the drawing.
    """

    places: Mapping[str, tuple[float, float]]
    paths: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
    width: float
    height: float


def lay_out(
    nodes: Sequence[str],
    edges: Sequence[tuple[str, str]],
    *,
    size: tuple[float, float] = (200.0, 44.0),
    gap: tuple[float, float] = (80.0, 16.0),
) -> Laid:
    """Places a graph's nodes.

    Args:
        nodes: Their names.
        edges: From and to; one that closes a circle is drawn and decides nothing.
        size: Width and height of a node.
        gap: Between layers, and between nodes of a layer.
    """
    known = set(nodes)
    edges = list(dict.fromkeys((a, b) for a, b in edges if a in known and b in known and a != b))
    layer = _layers(nodes, edges)
    columns, chains = _bent(nodes, edges, layer)
    down, up = defaultdict(list), defaultdict(list)
    for chain in chains.values():
        for a, b in pairwise(chain):
            down[a].append(b)
            up[b].append(a)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for i in order:
            beside = columns[i - 1] if forward else columns[i + 1]
            at = {name: place for place, name in enumerate(beside)}
            near = up if forward else down
            _sort(columns[i], near, at)
    rows = _rows(columns, up, down, size[1] + gap[1])
    step = size[0] + gap[0]
    places = {
        name: (i * step, rows[name])
        for i, column in enumerate(columns)
        for name in column
        if name in known
    }
    paths = {}
    for (a, b), chain in chains.items():
        points = [(places[a][0] + size[0], places[a][1] + size[1] / 2)]
        for bend in chain[1:-1]:
            x = _layer_of(bend) * step
            middle = rows[bend] + size[1] / 2
            points += [(x, middle), (x + size[0], middle)]
        points.append((places[b][0], places[b][1] + size[1] / 2))
        paths[a, b] = points
    return Laid(
        places=places,
        paths=paths,
        width=max(len(columns) * step - gap[0], size[0]),
        height=max((y for _, y in places.values()), default=0.0) + size[1],
    )


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each node's layer: one more than the last of its sources."""
    sources = defaultdict(list)
    for a, b in edges:
        sources[b].append(a)
    layer: dict[str, int] = {}
    for start in nodes:
        stack, open_ = [(start, iter(sources[start]))], {start}
        while stack:
            name, left = stack[-1]
            if name in layer:
                stack.pop()
                open_.discard(name)
                continue
            following = next((s for s in left if s not in layer and s not in open_), None)
            if following is not None:
                stack.append((following, iter(sources[following])))
                open_.add(following)
                continue
            layer[name] = 1 + max((layer[s] for s in sources[name] if s in layer), default=-1)
    return layer


def _bend(a: str, b: str, layer: int) -> str:
    return f"\0{layer}\0{a}\0{b}"


def _layer_of(bend: str) -> int:
    return int(bend.split("\0")[1])


def _bent(
    nodes: Sequence[str], edges: Sequence[tuple[str, str]], layer: Mapping[str, int]
) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """The layers with the places through which long edges bend, and each edge's way."""
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for name in nodes:
        columns[layer[name]].append(name)
    chains, bends = {}, 0
    for a, b in edges:
        between = range(layer[a] + 1, layer[b])
        chain = [a]
        if bends + len(between) <= _BENDS:
            for i in between:
                columns[i].append(_bend(a, b, i))
                chain.append(_bend(a, b, i))
            bends += len(between)
        chains[a, b] = [*chain, b]
    return columns, chains


def _sort(column: list[str], near: Mapping[str, list[str]], at: Mapping[str, int]) -> None:
    places = {}
    for place, name in enumerate(column):
        found = [at[other] for other in near[name] if other in at]
        places[name] = sum(found) / len(found) if found else float(place)
    column.sort(key=lambda name: places[name])


def _rows(
    columns: Sequence[Sequence[str]],
    up: Mapping[str, list[str]],
    down: Mapping[str, list[str]],
    step: float,
) -> dict[str, float]:
    """Each node's height: near the middle of its neighbours, none over another."""
    rows = {name: i * step for column in columns for i, name in enumerate(column)}
    for sweep in range(4):
        ordered = columns if sweep % 2 == 0 else list(reversed(columns))
        for column in ordered:
            wanted = []
            for name in column:
                near = up[name] if sweep % 2 == 0 else down[name]
                near = near or up[name] or down[name]
                middle = sum(rows[o] for o in near) / len(near) if near else rows[name]
                wanted.append(middle)
            _spread(column, wanted, rows, step)
    low = min(rows.values(), default=0.0)
    return {name: y - low for name, y in rows.items()}


def _spread(
    column: Sequence[str], wanted: Sequence[float], rows: dict[str, float], step: float
) -> None:
    """Puts a layer's nodes where they want to be, at least a step apart.

    Blocks that would overlap stand around their common middle.
    """
    blocks: list[tuple[float, int]] = []  # mean of (wanted - i * step), size
    for i, want in enumerate(wanted):
        mean, size = want - i * step, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    i = 0
    for mean, size in blocks:
        for _ in range(size):
            rows[column[i]] = mean + i * step
            i += 1
