"""Training again exactly what a bad file or table version reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.workspace.impact import find_impact
from shoal.workspace.report import ModelReport
from shoal.workspace.training import Scope, last_training, train_model

if TYPE_CHECKING:
    from shoal.workspace.workspace import Workspace

__all__ = ["train_affected"]


def train_affected(
    space: Workspace,
    source: str,
    names: Sequence[str] = (),
    *,
    alias: str | None = "champion",
    promote: bool = False,
    batched: bool = True,
) -> list[ModelReport]:
    """Fits the members whose newest version learned from bad rows, on the table as it is now.

    Mend the data first: take the file away and refresh in full, or restore the table. Members that
    learned from none of it stay as they are, bit for bit.

    Args:
        space: The workspace.
        source: What was bad; see `find_impact`.
        names: Only these models; by default all that are declared.
        alias: As for `Workspace.train`.
        promote: As for `Workspace.train`.
        batched: As for `Workspace.train`.

    Raises:
        TableNotFound: Nothing in the lake was read from such a file, or there is no such table.
        TableError: The table's log has no such version.
        ProjectError: The project declares no such model.
    """
    found = find_impact(space, source)
    reports = []
    for declaration in space.declared(names):
        last = last_training(space, declaration.name)
        hit = next(
            (
                each
                for each in found.models
                if last and (each.model, each.version) == (last.name, last.version)
            ),
            None,
        )
        table = str(space.lake.name(declaration.table))
        if hit is None:
            version = None if last is None else last.version
            said = f"version {version} learned from none of {source}" if last else "never trained"
            reports.append(
                ModelReport(
                    model=declaration.name,
                    status="current",
                    reason=said,
                    version=version,
                    table=table,
                    metric=declaration.metric,
                )
            )
            continue
        only = Scope(
            everything=hit.segments is None,
            affected=None if hit.segments is None else frozenset(hit.segments),
            batched=batched,
        )
        space.on_event("train", declaration.name, (0, 0))
        reports.append(
            train_model(space, declaration, f"from {source}", alias, only, promoting=promote)
        )
        space.on_event("train", declaration.name, reports[-1])
    return reports
