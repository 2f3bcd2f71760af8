"""SQL over the lake: names become Delta tables at their newest version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.engines import Read, TableRead, dataframe, query_plan, rewrite, version_relation
from shoal.errors import EngineError, PipelineError
from shoal.lake import version_asked

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect.proto import Relation

    from shoal.engines import Engine
    from shoal.lake import Lake

__all__ = ["run_query"]


def run_query(query: str, engine: Engine, lake: Lake, *, limit: int | None = None) -> pa.Table:
    """Runs one ``SELECT``; see `Workspace.sql`."""
    from sqlglot import exp

    from shoal.engines import parse_sql

    text = query.strip().rstrip(";")
    if not isinstance(parse_sql(text), exp.Query | exp.Describe):
        raise PipelineError(
            "shoal sql reads; this statement is no query.",
            hint="Tables are written by the pipeline: declare one in transformations/.",
        )

    def newest(read: Read) -> Relation | None:
        if not isinstance(read, TableRead):
            return None
        table = lake.existing(read.name)
        asked = version_asked(table, read.options)
        return version_relation(table.path, table.version() if asked is None else asked)

    plan = rewrite(query_plan(text), newest)
    try:
        frame = dataframe(plan, engine.spark)
        return frame.limit(limit).toArrow() if limit is not None else frame.toArrow()
    except Exception as error:
        raise EngineError(f"The engine refused the query: {str(error).splitlines()[0]}") from error
