"""What a workspace did, as plain values for people and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from shoal.pipeline import Decision

__all__ = [
    "ModelPlan",
    "ModelReport",
    "Plan",
    "RunReport",
    "ScoreReport",
    "SearchReport",
    "TableReport",
]


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """One table of a run.

    Args:
        table: Its name.
        kind: Streaming table or materialized view.
        status: ``refreshed``, ``unchanged``, ``failed`` or ``skipped``.
        refresh: ``none``, ``incremental`` or ``full``.
        reason: Why.
        version: Its version afterwards.
        rows: Rows written.
        files: Input files read.
        dropped: Rows that expectations left out.
        rescued: Malformed rows kept for inspection.
        seconds: Wall time.
        expectations: Name to ``{"action", "passed", "failed"}``; ``view.name`` for those on views.
        notes: What was left alone, and why.
        error: The error, if any.
        retryable: It failed over something that may work when tried again.
    """

    table: str
    kind: str
    status: str
    refresh: str
    reason: str
    version: int | None
    rows: int
    files: int
    dropped: int
    rescued: int
    seconds: float
    expectations: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]
    error: str | None
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Whether a model needs training, and why.

    Args:
        model: Its name.
        table: The table it learns from.
        stale: It needs training.
        reason: Why (not).
    """

    model: str
    table: str
    stale: bool
    reason: str


class Plan(NamedTuple):
    """What a run would do; also a pair of both.

    Args:
        decisions: What it would refresh.
        models: Which models it would train.
    """

    decisions: list[Decision]
    models: list[ModelPlan]

    def _repr_html_(self) -> str:
        from shoal.html import card, grid

        tables = [(str(d.name), d.action, d.reason) for d in self.decisions]
        models = [(m.model, "train" if m.stale else "none", m.reason) for m in self.models]
        due = sum(action != "none" for _, action, _ in [*tables, *models])
        return card("Plan", {"to do": due}, grid(["what", "refresh", "why"], [*tables, *models]))


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model's training.

    Args:
        model: Its name.
        status: ``trained``, ``current``, ``pending`` (MLflow is yet to be told) or ``failed``.
        reason: Why.
        version: Registered version, or None.
        run_id: MLflow run.
        table: The table it learned from.
        table_version: That table's version.
        metric: Name of the declared metric.
        metrics: Aggregated metrics and counts.
        failures: Cause of each fallback or failure, and how many segments it met.
        seconds: Wall time.
        error: The error, if any.
        search: What a search found of its parameters, in one line.
    """

    model: str
    status: str
    reason: str
    version: int | None = None
    run_id: str | None = None
    table: str = ""
    table_version: int | None = None
    metric: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    search: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """One model's search for its parameters.

    Args:
        model: Its name.
        status: ``searched``, ``current`` (it was made before) or ``failed``.
        study: Its name in the table of trials.
        table: The table of trials.
        table_version: The version of the training table that it was made on.
        newest: The table's version now; None where it is not known.
        metric: What the values measure.
        params: The best parameters; where segments or groups have their own, those for the rest.
        value: The best value on the validation rows.
        scopes: How many segments or groups have parameters of their own; 1 for one search for all.
        trials: How many trials are complete, pruned and failed.
        new: How many were made now.
        seconds: Wall time.
        error: The error, if any.
    """

    model: str
    status: str
    study: str = ""
    table: str = ""
    table_version: int | None = None
    newest: int | None = None
    metric: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    scopes: int = 0
    trials: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def chosen(self) -> str:
        """The best parameters, short."""
        return ", ".join(f"{name}={_short(value)}" for name, value in self.params.items())

    @property
    def text(self) -> str:
        """What was found, in one line."""
        states = ", ".join(f"{count:,} {state}" for state, count in self.trials.items() if count)
        what = f"best {self.metric} {self.value:.4g} on validation rows"
        if self.scopes > 1:
            told = f"{self.scopes:,} searches ({states}), {what}; the rest take {self.chosen}"
        else:
            told = f"trials: {states}; {what} with {self.chosen}"
        if self.newest is not None and self.newest != self.table_version:
            told += (
                f"; made on version {self.table_version} of a table that is at {self.newest} now "
                f"(new rows start no search: shoal search {self.model} looks again)"
            )
        return told


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """One model's scoring.

    Args:
        model: Its name.
        status: ``scored``, ``current`` (no new row) or ``failed``.
        reason: Which rows, and why.
        version: The registered version that scored.
        table: The predictions table.
        table_version: Its version afterwards.
        rows: Rows scored.
        fallbacks: Rows scored by a fallback model.
        seconds: Wall time.
        error: The error, if any.
    """

    model: str
    status: str
    reason: str
    version: int | None = None
    table: str = ""
    table_version: int | None = None
    rows: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A whole run.

    Args:
        tables: The tables, in the order in which they ended.
        models: The models.
        scores: The predictions tables.
        seconds: Wall time.
        error: Why a round of a continuous run did nothing.
    """

    tables: tuple[TableReport, ...] = ()
    models: tuple[ModelReport, ...] = ()
    scores: tuple[ScoreReport, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @property
    def failed(self) -> bool:
        """True when a part failed."""
        statuses = [
            *(table.status for table in self.tables),
            *(model.status for model in self.models),
            *(score.status for score in self.scores),
        ]
        return "failed" in statuses or "skipped" in statuses or self.error is not None

    @property
    def exit_code(self) -> int:
        """The command's: 0 done, 1 a part failed, 75 all that failed may work when tried again."""
        if not self.failed:
            return 0
        others = [*(model.status for model in self.models), *(part.status for part in self.scores)]
        final = [table for table in self.tables if table.status == "failed" and not table.retryable]
        return 1 if final or "failed" in others else 75

    def _repr_html_(self) -> str:
        from shoal.html import card, grid

        tables = [
            (t.table, t.status, t.refresh, t.rows, t.dropped, t.seconds, t.error or t.reason)
            for t in self.tables
        ]
        models = [
            (m.model, m.status, m.version, m.metrics.get(m.metric), m.seconds, m.error or m.reason)
            for m in self.models
        ]
        scores = [
            (s.model, s.status, s.table, s.rows, s.fallbacks, s.seconds, s.error or s.reason)
            for s in self.scores
        ]
        parts = []
        if tables:
            heads = ["table", "status", "refresh", "rows", "dropped", "seconds", "why"]
            parts.append(grid(heads, tables))
        if models:
            heads = ["model", "status", "version", "metric", "seconds", "why"]
            parts.append(grid(heads, models))
        if scores:
            heads = ["predictions of", "status", "into", "rows", "fallback", "seconds", "why"]
            parts.append(grid(heads, scores))
        title = "Run: a part failed" if self.failed else "Run"
        return card(title, {"seconds": self.seconds, "error": self.error}, *parts)

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {**asdict(self), "failed": self.failed}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
