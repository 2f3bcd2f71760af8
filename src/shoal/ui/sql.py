"""The SQL page: a read-only editor with completion, a table or a chart, and exports."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from shoal.ui.page import render, short_value
from shoal.ui.readonly import run
from shoal.ui.routes import Form, Missing, Router

if TYPE_CHECKING:
    import pyarrow as pa
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["add_sql"]

_SHOWN, _EXPORTED, _SECONDS = 1_000, 100_000, 30.0
_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


def add_sql(router: Router) -> None:
    """Adds the routes of the SQL page."""
    router.page("/sql", _page)
    router.page("/api/sql/names", _names)
    router.action("/api/sql/run", _run, role="viewer")
    router.action("/sql/export", _export, role="viewer")


def _page(desk: Desk, request: Request) -> Response:
    own = [name for name in desk.names() if not name.startswith("shoal.")]
    example = f"SELECT * FROM {own[0]} LIMIT 100" if own else "SELECT 1 AS one"  # noqa: S608  (shown, and run only when someone asks for it)
    return render(
        request, desk, "sql.html", page="sql", title="SQL",
        query=request.query_params.get("q", "") or example, given="q" in request.query_params,
        tables=desk.summaries(), shown=_SHOWN, exported=_EXPORTED, seconds=int(_SECONDS),
    )  # fmt: skip


def _names(desk: Desk, request: Request) -> Response:
    """What the editor completes: tables, and their columns."""
    from starlette.responses import JSONResponse

    _ = request
    return JSONResponse({s.name: [c.name for c in s.columns] for s in desk.summaries()})


def _run(desk: Desk, request: Request, form: Form) -> Response:
    from starlette.responses import JSONResponse

    _ = request
    answer = run(desk, form.one.get("query", ""), limit=_SHOWN, seconds=_SECONDS)
    rows = answer.rows
    columns = [
        {"name": field.name, "type": str(field.type), "kind": _kind(field.type)}
        for field in rows.schema
    ]
    kinds = [column["kind"] for column in columns]
    values = [
        [_plain(value, kind) for value in column.to_pylist()]
        for column, kind in zip(rows.columns, kinds, strict=True)
    ]
    told = {"columns": columns, "values": values, "rows": rows.num_rows}
    return JSONResponse(told | {"more": answer.more, "seconds": round(answer.seconds, 3)})


def _kind(kind: pa.DataType) -> str:
    import pyarrow.types as of

    if of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind):
        return "number"
    return "time" if of.is_timestamp(kind) or of.is_date(kind) else "text"


def _plain(value: Any, kind: str) -> Any:
    """A value as JSON can hold it; numbers that JavaScript would round are text."""
    if value is None:
        return None
    if kind == "number":
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124  (NaN)
            return str(value)
        return str(value) if abs(number) > 2**53 else value if isinstance(value, int) else number
    return str(value) if kind == "time" else short_value(value)


def _export(desk: Desk, request: Request, form: Form) -> Response:
    from starlette.responses import Response as Answer

    _ = request
    kind = form.one.get("format", "")
    if kind not in _TYPES:
        raise Missing(f"There is no export as '{kind}'.", hint="csv, json or parquet")
    answer = run(desk, form.one.get("query", ""), limit=_EXPORTED, seconds=_SECONDS)
    headers = {"content-disposition": f'attachment; filename="query.{kind}"'}
    return Answer(_written(answer.rows, kind), media_type=_TYPES[kind], headers=headers)


def _written(rows: pa.Table, kind: str) -> bytes:
    import polars as pl
    import pyarrow.parquet as pq

    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(rows, out, compression="zstd")
        return out.getvalue()
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    if kind == "json":
        frame.write_json(out)
        return out.getvalue()
    nested = [name for name, of in frame.schema.items() if of.is_nested() or of == pl.Binary]
    texts = [
        pl.Series(name, [None if v is None else short_value(v) for v in frame[name].to_list()])
        for name in nested
    ]
    frame.with_columns(texts).write_csv(out)
    return out.getvalue()
