"""What a search found, read from the table of trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from shoal.lake import Table
from shoal.models import ModelDeclaration
from shoal.training.search.score import is_greater_better
from shoal.training.search.space import Space

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Found", "read_found", "study_rows"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best parameters of one study.

    Attributes:
        study: Its name.
        trials_table: The table of trials.
        table_version: The version of the training table that it was made on.
        newest: The table's version now; new rows start no search.
        metric: What the values measure.
        params: The best parameters; where segments or groups have their own, those for all that
            have none.
        tuned: The best parameters by the key of a segment or of its first key values.
        value: The best value; the mean over segments or groups, by their rows, where they have
            their own.
        counts: How many trials are ``complete``, ``pruned`` and ``failed``.
        scopes: How many segments or groups were searched for; 1 for one search for all.
        new: How many trials were made now.
        seconds: Wall-clock time of it.
    """

    study: str
    trials_table: str
    table_version: int
    metric: str
    params: Mapping[str, object]
    tuned: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    value: float
    counts: Mapping[str, int]
    scopes: int
    newest: int | None = None
    new: int = 0
    seconds: float = 0.0

    def applied(self, declaration: ModelDeclaration) -> ModelDeclaration:
        """The declaration with these parameters, and nothing left to search for."""
        params = {**declaration.params, **self.params}
        return replace(declaration, params=params, tuned=dict(self.tuned), search=None)


def study_rows(table: Table, study: str) -> pl.DataFrame:
    """A study's rows of the table of trials."""
    import polars as pl

    return table.scan().filter(pl.col("study") == study).collect()


def read_found(
    table: Table, study: str, declaration: ModelDeclaration, space: Space, *, shared: bool
) -> Found:
    """The best of a study's trials; of equals the earliest.

    Args:
        table: The table of trials; it has a complete one of the study.
        study: The study.
        declaration: The declaration that searches.
        space: Its space.
        shared: Whether all scopes tried the same points.
    """
    import polars as pl

    assert declaration.search is not None
    rows = study_rows(table, study)
    greater = is_greater_better(declaration.metric)
    complete = rows.filter(state="complete").sort(["value", "number"], descending=[greater, False])
    best = complete.unique("scope", keep="first", maintain_order=True)
    weights = np.maximum(best["rows"].to_numpy(), 1)
    value = float(np.average(best["value"].to_numpy(), weights=weights))
    counts = dict(rows.group_by("state").len().iter_rows())
    own = bool(declaration.search.columns(declaration.by))
    if not own:
        point = best["point"][0]
    elif shared:
        # The point that is best for all segments together, each by its rows.
        share = (pl.col("value") * pl.col("rows")).sum() / pl.col("rows").sum()
        whole = complete.group_by("point").agg(
            value=share, rows=pl.col("rows").sum(), number=pl.col("number").min()
        )
        # A point that failed in some segments is no candidate for all.
        whole = whole.filter(pl.col("rows") == pl.col("rows").max())
        point = whole.sort(["value", "number"], descending=[greater, False])["point"][0]
    else:
        point = best.sort("rows", "scope", descending=[True, False])["point"][0]
    texts = {text: space.params(json.loads(text)) for text in {*best["point"].to_list(), point}}
    tuned = dict(zip(best["scope"].to_list(), best["point"].to_list(), strict=True)) if own else {}
    return Found(
        study=study,
        trials_table=table.name,
        table_version=int(rows["table_version"][0]),
        metric=declaration.metric,
        params=texts[point],
        tuned={scope: texts[text] for scope, text in tuned.items()},
        value=value,
        counts={state: int(counts.get(state, 0)) for state in ("complete", "pruned", "failed")},
        scopes=rows["scope"].n_unique(),
    )
