"""What comparisons of versions found, kept in ``shoal.evaluations_<model>``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, TableError

if TYPE_CHECKING:
    from shoal.lake import Lake, Table

__all__ = ["Evaluation", "keep", "last_evaluation", "won_segments"]

# Commits after which a table's small files are put together.
_COMPACTED = 64


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a comparison found.

    Attributes:
        id: Names it in ``shoal.evaluations_<model>`` and in ``shoal.promotions``.
        model: Registered model.
        challenger: The version that wants to become the champion.
        champion: The version that it is compared with.
        table: Whose rows.
        table_version: At which version.
        which: Which rows, for a person.
        seen: Which version saw them in training: ``neither``, ``challenger``, ``champion``,
            ``both`` or ``unknown``.
        metric: The metric.
        test: ``t`` or ``wilcoxon``.
        alpha: Share of false discoveries, at most.
        rows: Rows that both predicted, and whose target is known.
        skipped: Rows left out, for one of the two has no prediction or the target is missing.
        values: The metric of both over all rows, by ``challenger`` and ``champion``.
        p: p-value over all rows.
        verdict: The challenger has ``won``, ``lost`` or ``tied`` over all rows.
        segments: How many segments were won, lost and tied.
        at: When, UTC.
        seconds: Wall time.
    """

    id: str
    model: str
    challenger: int
    champion: int
    table: str
    table_version: int
    which: str
    seen: str
    metric: str
    test: str
    alpha: float
    rows: int
    skipped: int = 0
    values: Mapping[str, float | None] = field(default_factory=dict)
    p: float | None = None
    verdict: str = "tied"
    segments: Mapping[str, int] = field(default_factory=dict)
    at: dt.datetime | None = None
    seconds: float = 0.0

    def _repr_html_(self) -> str:
        from shoal.html import card

        facts = {
            f"{self.metric} of version {self.champion}": self.values.get("champion"),
            f"of version {self.challenger}": self.values.get("challenger"),
            "over all rows": self.verdict,
            **{f"segments {name}": count for name, count in self.segments.items()},
            "rows": self.rows,
            "which": self.which,
            "seen in training by": self.seen,
        }
        return card(f"{self.model}: version {self.challenger} against {self.champion}", facts)


def keep(result: Evaluation, columns: Mapping[str, Any], lake: Lake) -> None:
    """Commits the rows of an evaluation; that of all segments together has no segment."""
    import pyarrow as pa

    from shoal.lake import optimize

    rows = len(columns["verdict"])
    same: dict[str, tuple[Any, pa.DataType]] = {
        "evaluation": (result.id, pa.string()),
        "challenger": (result.challenger, pa.int64()),
        "champion": (result.champion, pa.int64()),
        "table": (result.table, pa.string()),
        "table_version": (result.table_version, pa.int64()),
        "which": (result.which, pa.string()),
        "seen": (result.seen, pa.string()),
        "metric": (result.metric, pa.string()),
        "test": (result.test, pa.string()),
        "alpha": (result.alpha, pa.float64()),
        "skipped": (result.skipped, pa.int64()),
        "evaluated_at": (result.at, pa.timestamp("us", "UTC")),
    }
    kinds = {"segment": pa.string(), "n": pa.int64(), "verdict": pa.string()}
    table = pa.table(
        {
            **{name: pa.repeat(pa.scalar(v, kind), rows) for name, (v, kind) in same.items()},
            **{
                name: pa.array(values, kinds.get(name, pa.float64()), from_pandas=True)
                for name, values in columns.items()
            },
        }
    )
    target = _table(lake, result.model)
    if target.append(table, metadata={"shoal": "evaluation"}) % _COMPACTED == 0:
        with contextlib.suppress(Conflict, TableError):
            optimize(target)


def _table(lake: Lake, model: str) -> Table:
    return lake.table(f"shoal.evaluations_{model}")


def last_evaluation(lake: Lake, model: str, challenger: int, champion: int) -> Evaluation | None:
    """The newest evaluation of two versions, without the segments' rows; None when there is none.

    Args:
        lake: Where ``shoal.evaluations_<model>`` is.
        model: The model.
        challenger: Version of the challenger.
        champion: Version of the champion.
    """
    import polars as pl

    table = _table(lake, model)
    if not table.exists():
        return None
    pair = (pl.col("challenger") == challenger) & (pl.col("champion") == champion)
    rows = table.scan().filter(pair)
    newest = rows.filter(pl.col("segment").is_null()).sort("evaluated_at").tail(1).collect()
    if not newest.height:
        return None
    (row,) = newest.to_dicts()
    names = ("table", "table_version", "which", "seen", "metric", "test", "alpha", "skipped")
    counts = rows.filter(
        (pl.col("evaluation") == row["evaluation"]) & pl.col("segment").is_not_null()
    )
    tally = dict.fromkeys(("won", "lost", "tied"), 0)
    tally |= dict(counts.group_by("verdict").len().collect().iter_rows())
    return Evaluation(
        id=row["evaluation"],
        model=model,
        challenger=challenger,
        champion=champion,
        **{name: row[name] for name in names},
        rows=row["n"],
        values={name: row[f"{name}_value"] for name in ("challenger", "champion")},
        p=row["p"],
        verdict=row["verdict"],
        segments=tally,
        at=row["evaluated_at"],
    )


def won_segments(lake: Lake, evaluation: Evaluation) -> list[str]:
    """Keys of the segments that the challenger won, sorted."""
    import polars as pl

    wanted = (
        (pl.col("evaluation") == evaluation.id)
        & (pl.col("verdict") == "won")
        & pl.col("segment").is_not_null()
    )
    found = _table(lake, evaluation.model).scan().filter(wanted).select("segment").collect()
    return sorted(found["segment"].to_list())
