"""What a flow's definition says, kept with its progress, so that a plan can show what changed."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from shoal.engines import outline
from shoal.pipeline.definitions import Kind

if TYPE_CHECKING:
    from shoal.lake import Progress
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["described", "edit", "moves"]

_SOURCE, _PLAN = "source", "plan"


def described(node: Node, query: Query, graph: Graph) -> dict[str, str]:
    """The texts of a flow's definition by what they are.

    Args:
        node: The table.
        query: Its flow.
        graph: Its graph; temporary views are seen through.
    """
    expectations = (*node.dataset.expectations, *query.flow.expectations)
    found = {
        _SOURCE: _source(query),
        **{f"view {name}": _source(view) for name, view in _views(query, graph)},
        "expectations": "\n".join(f"{e.name}: {e.condition} ({e.action})" for e in expectations),
        "schema": "" if node.dataset.schema is None else str(node.dataset.schema),
        "partition columns": ", ".join(node.dataset.partition_by),
        _PLAN: "\n".join(
            outline(part.plan) for part in (query, *(view for _, view in _views(query, graph)))
        ),
    }
    if query.flow.cdc is not None:
        given = {k: getattr(v, "__qualname__", str(v)) for k, v in asdict(query.flow.cdc).items()}
        unset = ("None", "False", "()")
        found["AUTO CDC"] = "\n".join(f"{k}={v}" for k, v in given.items() if v not in unset)
    return {name: text for name, text in found.items() if text}


def _source(query: Query) -> str:
    """The flow's text as its author wrote it."""
    flow = query.flow
    if isinstance(flow.query, str):
        return flow.query.strip()
    if flow.local is not None and flow.local.language == "r":
        return flow.local.source()
    with contextlib.suppress(OSError, TypeError):
        return textwrap.dedent(inspect.getsource(inspect.unwrap(flow.query))).strip()
    return ""


def _views(query: Query, graph: Graph) -> Iterator[tuple[str, Query]]:
    for name in sorted(query.tables):
        inner = graph.nodes.get(name)
        if inner is not None and inner.dataset.kind is Kind.TEMPORARY_VIEW:
            for view in inner.queries:
                yield str(name), view
                yield from _views(view, graph)


def edit(node: Node, query: Query, graph: Graph, before: Progress) -> str:
    """A unified diff, without file headers, from the definition that wrote the table last to now.

    The plan is compared only where no other text differs: a helper function changed, say. Empty
    when the earlier definition's text was not kept.
    """
    old = dict(before.described)
    if not old:
        return ""
    new = described(node, query, graph)
    changed = [name for name in (*new, *(old.keys() - new)) if old.get(name) != new.get(name)]
    if changed != [_PLAN]:
        changed = [name for name in changed if name != _PLAN]
    if _SOURCE in changed and callable(query.flow.query):  # its decorators say the rest
        changed = [name for name in changed if name == _SOURCE or name.startswith("view ")]
    lines: list[str] = []
    for name in changed:
        found = difflib.unified_diff(
            old.get(name, "").splitlines(), new.get(name, "").splitlines(), n=1, lineterm=""
        )
        told = [line for line in found if not line.startswith(("---", "+++"))]
        lines += [f"@@ {name}" if line.startswith("@@") else line for line in told]
    return "\n".join(lines)


def moves(inputs: Mapping[str, tuple[int | None, int]]) -> str:
    """Input versions in few words: ``silver.flights 3 -> 5``."""
    return ", ".join(
        f"{name} {now}" if then is None else f"{name} {then} -> {now}"
        for name, (then, now) in inputs.items()
    )
