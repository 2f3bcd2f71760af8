"""``shoal.predict``: a DataFrame with the predictions of a registered model beside its rows.

The model's version is found once, when the project is analysed, and stands in the query: all rows
of a run are scored by one version, and another version is another definition of the table.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, PipelineError, RequestError, TrackingError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Plan
    from pyspark.sql.types import StructType

    from shoal.models import Fleet

__all__ = ["FoundModel", "finding_models", "models_of", "predict"]

_PREFIX = "models:/"
# The engine's batches are small: they are put together, so that a member is called once for many.
_ROWS = 262_144


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """One version of a registered model.

    Attributes:
        name: The registered model.
        version: Its version.
        folder: The local folder of its fleet artifact.
        trusted: Modules outside the allow-list whose estimator classes it may build.
    """

    name: str
    version: int
    folder: str
    trusted: tuple[str, ...] = ()


_finder: ContextVar[Callable[[str], FoundModel] | None] = ContextVar("shoal_models", default=None)


@contextlib.contextmanager
def finding_models(find: Callable[[str], FoundModel]) -> Iterator[None]:
    """Lets `predict` find models while sources are loaded and analysed.

    Args:
        find: Gives the version that a URI names.
    """
    token = _finder.set(find)
    try:
        yield
    finally:
        _finder.reset(token)


def predict(model: str, df: DataFrame, *, interval: bool = False) -> DataFrame:
    """The rows of a DataFrame with the predictions of a registered fleet.

    For flows of a pipeline. A materialized view is computed again when the name comes to mean
    another version; a streaming table scores each new row once, with the version of its run. Rows
    of segments without a model of their own, unseen and null ones too, go up the fallback chain.
    The engine must see the model's files: the embedded one does.

    Args:
        model: ``models:/name@champion``, ``models:/name/3``, or the same without ``models:/``.
        df: Rows with the model's ``by`` and feature columns.
        interval: Also give prediction intervals, of a model that was declared with them.

    Returns:
        All columns of ``df``, and ``prediction`` (double, or the classes' type; null where the
        model cannot take the row), with ``interval`` also ``prediction_lower`` and
        ``prediction_upper`` (double), ``model_used`` (the key of the member that predicted),
        ``fallback`` (whether it is not the segment's own), ``model`` and ``model_version``.

    Raises:
        PipelineError: A column is missing or taken, the model has no intervals, or this is no
            flow of a project.
    """
    from pyspark.sql import DataFrame as Frame
    from pyspark.sql import functions as F

    find = _finder.get()
    if find is None:
        raise PipelineError(
            "shoal.predict works in the flows of a project.",
            hint="Elsewhere: Workspace.open().tracker.fleet('name@champion').predict(rows)",
        )
    if not isinstance(df, Frame):
        raise PipelineError(
            f"shoal.predict takes a Spark DataFrame; found a {type(df).__module__}."
            f"{type(df).__qualname__}.",
            hint='Write: shoal.predict("models:/name@champion", spark.read.table(...))',
        )
    try:
        found = find(model)
    except (TrackingError, ModelError) as error:
        # The tables that the model learns from must be made before it: only this one waits.
        return _none(df, model, f"{error.message} {error.hint or ''}".strip(), interval=interval)
    fleet = _opened(found.folder, found.trusted)
    header = fleet.header
    _check(df.columns, [*header.by, *(f.name for f in header.features)], model)
    kind = {"str": "string", "int": "bigint", "bool": "boolean"}.get(
        type(header.classes[0]).__name__ if header.classes else "", "double"
    )
    if interval and header.interval is None:
        raise PipelineError(
            f"{model} was trained without prediction intervals.",
            hint="Declare them and train again: @shoal.model(..., interval=0.9)",
        )
    scored = df.mapInArrow(_function(found, interval), _with(df, _added(kind, interval)))
    return scored.withColumn("model", F.lit(found.name)).withColumn(
        "model_version", F.lit(found.version).cast("bigint")
    )


def models_of(plan: Plan) -> tuple[str, ...]:
    """The versions that a query scores with, as ``models:/name/3``.

    Args:
        plan: The query's plan.
    """
    from shoal.engines import functions_of

    return tuple(sorted({name for name in functions_of(plan) if name.startswith(_PREFIX)}))


def _check(columns: list[str], needed: list[str], model: str) -> None:
    for name in needed:
        if name not in columns:
            raise PipelineError(
                f"{model} needs the column '{name}', which the DataFrame lacks; it has "
                f"{', '.join(columns)}.",
                hint="Select it, or rename the column that is it.",
            )
    bounds = ("prediction_lower", "prediction_upper")
    new = ("prediction", *bounds, "model_used", "fallback", "model", "model_version")
    taken = [name for name in columns if name.lower() in new]
    if taken:
        raise PipelineError(
            f"shoal.predict adds the column '{taken[0]}', which the DataFrame has already.",
            hint=f'Rename it first: df.withColumnRenamed("{taken[0]}", "{taken[0]}_before")',
        )


def _with(df: DataFrame, added: str) -> StructType:
    from pyspark.sql.types import StructType

    more: Any = StructType.fromDDL(added)
    return StructType([*df.schema.fields, *more.fields])


def _added(kind: str, interval: bool) -> str:
    bounds = "prediction_lower double, prediction_upper double, " if interval else ""
    return f"prediction {kind}, {bounds}model_used string, fallback boolean"


def _none(df: DataFrame, model: str, why: str, *, interval: bool) -> DataFrame:
    from pyspark.sql import functions as F

    def refuse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                raise RequestError(f"no version of {model} to score with: {why}")
        yield from ()

    scored = df.mapInArrow(refuse, _with(df, _added("double", interval))).withColumn(
        "model", F.lit(model)
    )
    return scored.withColumn("model_version", F.lit(None).cast("bigint"))


def _function(found: FoundModel, interval: bool) -> Any:
    folder, trusted = found.folder, found.trusted

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from shoal.pipeline.predict import scored_batches

        return scored_batches(batches, folder, trusted, interval=interval)

    # The name stands in the plan, so that it tells the version.
    score.__name__ = f"{_PREFIX}{found.name}/{found.version}"
    return score


def scored_batches(
    batches: Iterator[pa.RecordBatch],
    folder: str,
    trusted: tuple[str, ...],
    *,
    interval: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Rows with their predictions, in order.

    Args:
        batches: Rows.
        folder: The fleet artifact.
        trusted: Modules whose estimator classes it may build.
        interval: Prediction intervals too.
    """
    import pyarrow as pa

    fleet = _opened(folder, trusted)
    for group in _grouped(batches):
        rows = pa.Table.from_batches(group)
        told = fleet.predict(rows, explain=True, interval=interval).drop_columns("segment")
        for name in told.column_names:
            rows = rows.append_column(name, told.column(name))
        yield from rows.combine_chunks().to_batches()


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        if rows >= _ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


@functools.lru_cache(maxsize=4)
def _opened(folder: str, trusted: tuple[str, ...]) -> Fleet:
    """An artifact folder never changes; its decoded members serve all partitions."""
    from shoal.models import Fleet

    return Fleet.open(folder, modules=trusted)
