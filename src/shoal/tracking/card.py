"""The model card: what a version is, for a person, as Markdown (Mitchell et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.models import FleetHeader, TrainedFleet
    from shoal.tracking.context import RunContext

__all__ = ["CARD", "model_card"]

# Its name in the folder of a logged model.
CARD = "model_card.md"

_COUNTS = {
    "segments": "segments",
    "segments_ok": "with a model of their own",
    "segments_fallback": "with a fallback",
    "segments_failed": "failed",
    "segments_fitted": "fitted in this training",
    "segments_carried": "carried over",
    "rows": "rows",
    "rows_train": "rows to train on",
    "rows_holdout": "rows held out",
    "rows_dropped": "rows dropped",
}
_COSTS = {
    "fit_seconds": "seconds of fitting",
    "core_seconds": "seconds of all cores",
    "data_bytes": "bytes read",
    "state_bytes": "bytes of fitted state",
    "models_per_second": "models a second",
}


def model_card(trained: TrainedFleet, header: FleetHeader, context: RunContext) -> str:
    """The card of one version.

    Args:
        trained: What training made.
        header: Header of its fleet.
        context: Code, environment and user.
    """
    declared, metrics = trained.declaration, trained.metrics
    others = {*_COUNTS, *_COSTS}
    code = context.code_commit or "no commit"
    keys = ", ".join(f"`{name}`" for name in header.by)
    by = f", one model per {keys}" if keys else ""
    lines = [
        f"# {declared.name}, fleet version {trained.fleet_version}",
        f"Predicts `{header.target}` ({header.task}){by}.",
        "## Data",
        *_list(
            {
                "table": f"`{trained.table}` version {trained.table_version}",
                "features": ", ".join(f"`{f.name}`" for f in header.features),
                "ordered by": f"`{declared.time}`" if declared.time else "nothing",
            }
        ),
        *(f"- {words}: {metrics[name]:,.0f}" for name, words in _COUNTS.items() if name in metrics),
        "## Metrics",
        f"On held-out rows, {declared.holdout:.0%} of each segment; `{declared.metric}` decides.",
        "",
        *_table(((n, f"{v:.6g}") for n, v in sorted(metrics.items()) if n not in others)),
        "## Fallbacks",
        *(_list({cause: f"{n:,} segments" for cause, n in trained.failures.items()}) or ["None."]),
        "## Cost",
        *(f"- {words}: {metrics[name]:,.2f}" for name, words in _COSTS.items() if name in metrics),
        f"- seconds in all: {trained.seconds:,.2f}",
        "## Where it comes from",
        *_list(
            {
                "declared in": f"`{declared.location}`",
                "parameters": ", ".join(f"`{k}={v}`" for k, v in trained.params.items()),
                "seed": str(trained.seed),
                "gate": f"`{declared.promote_if}`" if declared.promote_if else "none",
                "members": f"`{trained.members_table}` version {trained.members_version}",
                "fitted": trained.reason or "all",
                "code": f"`{code}`" + (", with changes" if context.code_dirty else ""),
                "environment": f"`{context.environment_hash or 'unknown'}`",
                "by": context.user,
            }
        ),
    ]
    return "\n".join(lines) + "\n"


def _list(items: dict[str, str]) -> list[str]:
    return [f"- {name}: {value}" for name, value in items.items()]


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    return ["| metric | value |", "| --- | ---: |", *(f"| {n} | {v} |" for n, v in rows), ""]
