"""One model's search for its parameters, on its own or before a training."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoal.workspace.report import SearchReport

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration, TrainedFleet
    from shoal.training.search import Found
    from shoal.workspace.opened import Opened

__all__ = ["find_parameters", "found_report", "search_model", "with_search"]


def find_parameters(
    space: Opened, declaration: ModelDeclaration, *, trials: int | None, anew: bool = False
) -> Found:
    """Searches for a model's parameters, or reads what an earlier search found.

    Args:
        space: The workspace.
        declaration: The model; it declares a search.
        trials: How many trials; None for the declared number.
        anew: Only a search of the table as it is now counts.

    Raises:
        ShoalError: The search failed.
    """
    from shoal.training.search import search

    def progress(done: int, total: int) -> None:
        space.on_event("search", declaration.name, (done, total))

    spark = space.engine.spark if space.project.profile.on_engine else None
    found = search(
        declaration,
        space.lake,
        trials=trials,
        anew=anew,
        workers=space.project.profile.workers,
        progress=progress,
        nursery=space.nursery if declaration.by and spark is None else None,
        spark=spark,
    )
    space.on_event("search", declaration.name, found)
    return found


def search_model(space: Opened, declaration: ModelDeclaration, trials: int | None) -> SearchReport:
    """Searches on the table as it is now.

    Args:
        space: The workspace.
        declaration: The model.
        trials: How many trials; None for the declared number.

    Returns:
        What was found; an error is a report, too.
    """
    begun = time.perf_counter()
    try:
        found = find_parameters(space, declaration, trials=trials, anew=True)
    except ShoalError as error:
        seconds = time.perf_counter() - begun
        return SearchReport(
            model=declaration.name, status="failed", seconds=seconds, error=str(error)
        )
    report = found_report(declaration.name, found)
    return replace(report, seconds=time.perf_counter() - begun)


def found_report(name: str, found: Found) -> SearchReport:
    """What a search found, for people.

    Args:
        name: The model's name.
        found: What was found.
    """
    return SearchReport(
        model=name,
        status="searched" if found.new else "current",
        study=found.study,
        table=found.trials_table,
        table_version=found.table_version,
        newest=found.newest,
        metric=found.metric,
        params=dict(found.params),
        value=found.value,
        scopes=found.scopes,
        trials=dict(found.counts),
        new=found.new,
        seconds=found.seconds,
    )


def with_search(trained: TrainedFleet, declaration: ModelDeclaration, found: Found) -> TrainedFleet:
    """A training of what a search found, as the declared model's training.

    Args:
        trained: What was trained, with the best parameters.
        declaration: The model as declared.
        found: What the search found.
    """
    metrics = {
        **trained.metrics,
        "search_trials": float(sum(found.counts.values())),
        **{f"search_trials_{state}": float(count) for state, count in found.counts.items()},
        "search_scopes": float(found.scopes),
        f"search_{found.metric}": found.value,
    }
    tags = {
        **trained.tags,
        "shoal.study": found.study,
        "shoal.trials_table": found.trials_table,
        "shoal.search_table_version": str(found.table_version),
    }
    return replace(
        trained,
        declaration=declaration,
        searched=trained.declaration,
        metrics=metrics,
        tags=tags,
    )
