"""Findings: how far new rows and predictions lie from what was learned, and how wrong they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.monitoring import drift, losses
from shoal.monitoring.losses import COMPARABLE

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from shoal.models import ModelDeclaration
    from shoal.project import Watched

__all__ = ["PREDICTION", "Findings", "compared", "error_metric", "errors", "pooled"]

# The column that holds a fleet's predictions.
PREDICTION = "prediction"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Columns of one kind of finding, before they are judged."""

    check: str
    names: list[tuple[str, str, str]]
    p: np.ndarray[Any, Any]
    effect: np.ndarray[Any, Any]
    columns: dict[str, Any]


def compared(before: pa.Table, current: pa.Table, watched: Watched) -> list[Findings]:
    """The columns and predictions of two windows.

    Args:
        before: Sketches of what the window is compared with.
        current: Those of the window.
        watched: From where on a difference is large.
    """
    import numpy as np
    import pyarrow.compute as pc

    told = drift(before, current)
    predicted = pc.equal(told.column("column"), PREDICTION)
    kinds = []
    for check, rows in (
        ("feature", told.filter(pc.invert(predicted))),
        ("prediction", told.filter(predicted)),
    ):
        psi = np.nan_to_num(np.asarray(rows.column("psi"), dtype=np.float64))
        gone, was = (
            np.nan_to_num(np.asarray(rows.column(name), dtype=np.float64))
            for name in ("missing", "baseline_missing")
        )
        effect = np.maximum(psi / watched.psi, np.abs(gone - was) / watched.missing)
        kinds.append(
            Findings(
                check=check,
                names=[
                    (check, segment, column)
                    for segment, column in zip(
                        rows.column("segment").to_pylist(),
                        rows.column("column").to_pylist(),
                        strict=True,
                    )
                ],
                p=np.asarray(rows.column("p"), dtype=np.float64),
                effect=effect,
                columns={n: rows.column(n) for n in rows.column_names},
            )
        )
    return kinds


def error_metric(declaration: ModelDeclaration, found: pl.DataFrame) -> str | None:
    """The first declared metric whose members' values can be watched; None when there is none.

    Args:
        declaration: The model.
        found: Its members.
    """
    declared = (declaration.metric, *declaration.metrics)
    return next((m for m in declared if m in COMPARABLE and m in found.columns), None)


def errors(
    metric: str,
    declaration: ModelDeclaration,
    rows: pl.DataFrame,
    found: pl.DataFrame,
    watched: Watched,
) -> Findings:
    """How wrong predictions were, against each segment's holdout.

    Args:
        metric: What `error_metric` gave.
        declaration: The model.
        rows: Key columns, ``prediction`` and target, in the order of time.
        found: The members.
        watched: From where on an error is large.
    """
    import numpy as np

    from shoal.models.segments import segment_codes

    promised = {
        key: (np.nan if value is None else value, rows or 0)
        for key, value, rows in found.select("segment", metric, "rows_holdout").iter_rows()
    }
    arrow = rows.to_arrow()
    codes, keys = segment_codes(arrow, list(declaration.by))
    truth, guess = _comparable(metric, arrow.column(declaration.target), arrow.column(PREDICTION))
    blocks = _days(arrow.column(declaration.time)) if declaration.time else None
    told = losses(metric, truth, guess, codes, keys, promised, blocks)
    ratio = np.asarray(told.column("ratio"), dtype=np.float64)
    segments = told.column("segment").to_pylist()
    columns = {n: told.column(n) for n in ("segment", "rows", "value", "reference", "p")}
    return Findings(
        check="error",
        names=[("error", segment, metric) for segment in segments],
        p=np.asarray(told.column("p"), dtype=np.float64),
        effect=np.nan_to_num((ratio - 1) / (watched.error - 1)),
        columns={**columns, "column": [metric] * len(segments)},
    )


def _days(times: pa.ChunkedArray) -> np.ndarray[Any, Any] | None:
    """The day of each row, where times are finer than that."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_timestamp(times.type):
        return None
    return np.asarray(times.cast(pa.timestamp("us")).cast(pa.int64())) // 86_400_000_000


def pooled(metric: str, told: Findings) -> tuple[float | None, float | None]:
    """The metric over all rows of segments that have a reference, now and as promised."""
    import numpy as np

    rows, value, reference = (
        np.asarray(told.columns[name], dtype=np.float64) for name in ("rows", "value", "reference")
    )
    good = np.isfinite(value) & np.isfinite(reference)
    if not good.any():
        return None, None
    power = 2.0 if metric == "rmse" else 1.0
    both = [
        float(np.average(side[good] ** power, weights=rows[good]) ** (1 / power))
        for side in (value, reference)
    ]
    return both[0], both[1]


def _comparable(metric: str, truth: Any, guess: Any) -> tuple[Any, Any]:
    """Both as numbers; labels by what they say."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if metric != "accuracy":
        return tuple(
            np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan), dtype=np.float64)
            for column in (truth, guess)
        )  # type: ignore[return-value]
    texts = [[_text(value) for value in column.to_pylist()] for column in (truth, guess)]
    codes = {text: float(i) for i, text in enumerate(dict.fromkeys([*texts[0], *texts[1]]))}
    codes[None] = np.nan
    return tuple(np.array([codes[text] for text in side]) for side in texts)  # type: ignore[return-value]


def _text(label: object) -> str | None:
    if label is None:
        return None
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
