"""SQL that only reads: refused by its text, by what its plan reads, and by how it is executed.

The text must be one query. Its plan may read tables of the lake by name, each at one version, and
nothing else: no file, no folder, no table function that opens one. It is executed as a relation
below a limit, where a command cannot stand, and interrupted when it takes too long.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.engines import (
    Read,
    TableRead,
    dataframe,
    parse_sql,
    query_plan,
    reads,
    rewrite,
    version_relation,
)
from shoal.errors import EngineError, PipelineError, Unavailable
from shoal.lake import version_asked

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect.proto import Relation

    from shoal.ui.desk import Desk

__all__ = ["Answer", "checked", "run"]

_FUNCTIONS = {"range", "explode", "explode_outer", "posexplode", "posexplode_outer", "inline"}
_FUNCTIONS |= {"sequence", "stack", "json_tuple", "generate_series", "unnest"}
_AT_ONCE = threading.BoundedSemaphore(4)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a query gave.

    Args:
        rows: At most as many rows as were allowed.
        more: There are more.
        seconds: How long it took.
    """

    rows: pa.Table
    more: bool
    seconds: float


def checked(text: str) -> str:
    """The text, if it is one query that only reads.

    Raises:
        PipelineError: It does not parse, or does something else.
    """
    from sqlglot import exp

    query = text.strip().rstrip(";").strip()
    if not query:
        raise PipelineError("There is no query.", hint="SELECT * FROM schema.table LIMIT 100")
    parsed = parse_sql(query)
    writes = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Set, exp.Use, exp.Drop, exp.Alter)
    if not isinstance(parsed, exp.Query) or any(
        isinstance(node, writes) and not isinstance(node, exp.Query) for node in parsed.walk()
    ):
        raise PipelineError(
            "Only queries are answered here; this statement is no query.",
            hint="Tables are written by the pipeline: declare one in transformations/.",
        )
    for table in parsed.find_all(exp.Table):
        function = table.this
        if isinstance(function, exp.Func):
            name = (function.name if isinstance(function, exp.Anonymous) else "").lower()
            name = name or function.sql_name().lower()
            if name not in _FUNCTIONS:
                raise PipelineError(f"The table function '{name}' is not answered here.")
    return query


def run(desk: Desk, text: str, *, limit: int, seconds: float) -> Answer:
    """Runs a query.

    Args:
        desk: Its tables, each at its newest version, are what the query may read.
        text: One ``SELECT`` in Spark SQL.
        limit: At most so many rows.
        seconds: It is interrupted after so long.

    Raises:
        PipelineError: It is no query that only reads.
        TableNotFound: It names something else than a table of the lake.
        EngineError: The engine refuses it, or it took too long.
        Unavailable: Too many queries run already.
    """
    query = checked(text)
    plan = query_plan(query)
    for read in reads(plan):
        if not isinstance(read, TableRead):
            raise PipelineError("Only tables of the lake are read here, by their names.")
        desk.table(str(desk.space.lake.name(read.name)))

    def newest(read: Read) -> Relation | None:
        assert isinstance(read, TableRead)
        table = desk.table(str(desk.space.lake.name(read.name)))
        asked = version_asked(table, read.options)
        return version_relation(table.path, table.version() if asked is None else asked)

    if not _AT_ONCE.acquire(timeout=2):
        raise Unavailable("Four queries run already.", hint="Try again when one has ended.")
    begun = time.perf_counter()
    try:
        frame = dataframe(rewrite(plan, newest), desk.engine().spark).limit(limit + 1)
        rows = _within(seconds, desk.engine().spark, frame)
    finally:
        _AT_ONCE.release()
    took = time.perf_counter() - begun
    return Answer(rows=rows.slice(0, limit), more=rows.num_rows > limit, seconds=took)


def _within(seconds: float, spark: Any, frame: Any) -> pa.Table:
    """The rows of a data frame; its operation is interrupted when they take too long."""
    tag, late = f"ui-{uuid.uuid4().hex}", threading.Event()

    def stop() -> None:
        late.set()
        with contextlib.suppress(Exception):
            spark.interruptTag(tag)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    spark.addTag(tag)  # of this thread alone
    timer.start()
    try:
        found: pa.Table = frame.toArrow()
    except Exception as error:
        if late.is_set():
            raise EngineError(
                f"The query was stopped: it took longer than {seconds:g} seconds.",
                hint="Ask for less, or run it in a terminal: shoal sql",
            ) from error
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"The engine refused the query: {first}") from error
    finally:
        timer.cancel()
        spark.removeTag(tag)
    return found
