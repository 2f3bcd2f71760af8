"""The training table at one version: checked, counted, and cut into segments."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError, nearest
from shoal.lake import Lake, Table, pinned_version
from shoal.models import FeatureField, ModelDeclaration
from shoal.models.columns import is_feature_type, is_moment_type
from shoal.models.segments import key_texts, segment_keys

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Segments",
    "Source",
    "Target",
    "find_segments",
    "has_new_labels",
    "open_source",
    "segments_of",
]

# More classes than this is a number that was given to a classifier.
_MOST_CLASSES = 1000

# More segments than this may be an accident.
_MANY = 10_000

# More values than this are no filter for a file.
_MOST_VALUES = 2000


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table a model learns from, pinned to a version.

    Attributes:
        table: The table.
        version: Its version.
        schema: Its columns at that version.
        features: The model's feature columns.
        keys: Values of key columns: only rows that have some of them count; None for all rows.
        held: The rows themselves, of the columns that a training reads, where they were read
            already; None where they lie in the table's files.
    """

    table: Table
    version: int
    schema: pa.Schema
    features: tuple[FeatureField, ...]
    keys: pl.DataFrame | None = None
    held: pl.DataFrame | None = None

    def scan(self) -> pl.LazyFrame:
        """The rows of that version."""
        import polars as pl

        if self.held is not None:
            return self.held.lazy()
        frame = self.table.scan(self.version)
        if self.keys is None:
            return frame
        for name in self.keys.columns:
            values = self.keys[name].unique()
            if len(values) <= _MOST_VALUES:  # this one the Parquet reader can use
                frame = frame.filter(pl.col(name).is_in(values.implode(), nulls_equal=True))
        if len(self.keys.columns) == 1 and self.keys.height <= _MOST_VALUES:
            return frame
        return frame.join(
            self.keys.lazy(),
            on=self.keys.columns,
            how="semi",
            nulls_equal=True,
            maintain_order="left",
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is known of the target column.

    Attributes:
        classes: Its values by class code; None for regression.
        mean: The mean of its finite values; 0 for classification.
    """

    classes: tuple[str | int | bool, ...] | None
    mean: float


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The segments in the order of the sorted rows.

    Attributes:
        values: The ``by`` columns, one row per segment.
        texts: Their key texts, one tuple per segment.
        keys: Their canonical keys.
        offsets: Row offsets, int64, shape (segments + 1,).
    """

    values: pa.Table
    texts: list[tuple[str | None, ...]]
    keys: list[str]
    offsets: np.ndarray[Any, Any]


# Columns of the table of members, beside the keys.
_RESERVED = frozenset(
    {
        "segment", "level", "status", "model_used", "uses", "reason", "error", "rows",
        "rows_train", "rows_holdout", "rows_dropped", "rows_hash", "template", "structure",
        "state", "pickled", "interval", "fit_seconds", "core_seconds", "data_bytes",
        "state_bytes", "origin_version", "trained_on_version", "table_version", "fingerprint",
        "trained_at", "fleet_version", "params", "table",
    }
)  # fmt: skip


def open_source(declaration: ModelDeclaration, lake: Lake, version: int | None) -> Source:
    """Find the table and check all columns that the declaration names.

    Raises:
        TableNotFound: There is no such table; names the nearest.
        TrainingError: A column is missing or has a type that cannot play its role.
    """
    table = lake.existing(declaration.table)
    if version is None:
        pin = declaration.pin
        version = table.version() if pin is None else pinned_version(lake, table, pin)
    schema = table.schema(version)
    named = {
        "target": (declaration.target,),
        "by": declaration.by,
        "time": (declaration.time,) if declaration.time else (),
        "weight": (declaration.weight,) if declaration.weight else (),
        "key": declaration.key,
        "search per": declaration.clusters,
        "features": declaration.features or (),
    }
    for role, columns in named.items():
        for column in columns:
            if column not in schema.names:
                near = nearest(column, schema.names)
                raise TrainingError(
                    f"{_where(declaration)}: {role} column {column!r} is not in {table.name}; "
                    f"it has {', '.join(schema.names)}.",
                    hint=f"did you mean {near!r}?" if near else None,
                )
    for column in declaration.by:
        if column.lower() in _RESERVED:
            raise TrainingError(
                f"{_where(declaration)}: by column {column!r} has the name of a column that a "
                "fleet keeps of each member.",
                hint=f'rename it in the pipeline: withColumnRenamed("{column}", "{column}_id")',
            )
        kind = schema.field(column).type
        if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise TrainingError(
                f"{_where(declaration)}: by column {column!r} is {kind}; expected text, whole "
                "numbers, booleans or dates.",
                hint=f"cast it in the pipeline: col({column!r}).cast('string')",
            )
    if declaration.weight and not is_feature_type(schema.field(declaration.weight).type):
        raise TrainingError(
            f"{_where(declaration)}: weight column {declaration.weight!r} is "
            f"{schema.field(declaration.weight).type}; expected numbers from 0 up."
        )
    return Source(
        table=table, version=version, schema=schema, features=_features(declaration, schema)
    )


def _features(declaration: ModelDeclaration, schema: pa.Schema) -> tuple[FeatureField, ...]:
    forecaster = _forecaster(declaration)
    if forecaster is not None:
        assert declaration.time is not None
        others = [n for n in declaration.features or () if n != declaration.time]
        if others and not forecaster.takes_features:
            raise TrainingError(
                f"{_where(declaration)}: {type(forecaster).__name__} forecasts from the time "
                f"alone; found the features {', '.join(others)}.",
                hint="leave features out, or use shoal.forecast.Fourier before a regression",
            )
        declaration = replace(declaration, features=(declaration.time, *others))
    by, key = declaration.by, declaration.key
    roles = {declaration.target, declaration.time, declaration.weight, *by, *key}
    roles |= set(declaration.clusters)
    if declaration.features is None:
        fields = [f for f in schema if f.name not in roles and is_feature_type(f.type)]
        if not fields:
            kinds = ", ".join(f"{f.name} ({f.type})" for f in schema)
            raise TrainingError(
                f"{_where(declaration)}: {declaration.table} has no numeric or boolean column "
                f"to predict from; it has {kinds}."
            )
    else:
        fields = [schema.field(name) for name in declaration.features]
        for found in fields:
            if not is_feature_type(found.type) and not is_moment_type(found.type):
                raise TrainingError(
                    f"{_where(declaration)}: feature {found.name!r} is {found.type}; expected a "
                    "numeric, boolean, date or timestamp column.",
                    hint="encode it in the pipeline, for example as one column per category",
                )
    kind, _, column = declaration.baseline.partition(":")
    names = [f.name for f in fields]
    if kind == "seasonal_naive" and column not in names:
        raise TrainingError(
            f"{_where(declaration)}: the baseline's column {column!r} is not a feature; "
            f"features are {', '.join(names)}."
        )
    return tuple(FeatureField(name=f.name, dtype=str(f.type)) for f in fields)


def _forecaster(declaration: ModelDeclaration) -> Any:
    """The estimator, if it is a forecaster, whose first feature is the time; else None."""
    estimator = declaration.build()
    if not getattr(estimator, "needs_time", False):
        return None
    if declaration.time is None:
        raise TrainingError(
            f"{_where(declaration)}: {type(estimator).__name__} forecasts from the time, but no "
            "time column is declared.",
            hint='name it: @shoal.model(..., time="read_at")',
        )
    return estimator


def check_target(declaration: ModelDeclaration, source: Source, *, classifier: bool) -> Target:
    """Read what must be known of the target before any fit.

    Raises:
        TrainingError: It is all null, constant, or of a type that the estimator cannot learn.
    """
    import polars as pl

    name, where = declaration.target, _where(declaration)
    kind = source.schema.field(name).type
    if not classifier and not is_feature_type(kind):
        raise TrainingError(
            f"{where}: target {name!r} is {kind}, but the estimator is a regressor.",
            hint="return a classifier, or choose a numeric target",
        )
    column = pl.col(name)
    if pa.types.is_floating(kind):
        column = column.filter(pl.col(name).is_finite())
    else:
        column = column.drop_nulls()
    scan = source.scan()
    if classifier:
        found = scan.select(column.unique().sort()).head(_MOST_CLASSES + 1).collect()[name]
        values = found.to_list()
        if len(values) > _MOST_CLASSES:
            raise TrainingError(
                f"{where}: target {name!r} has more than {_MOST_CLASSES} classes.",
                hint="return a regressor, or choose another target",
            )
        least, most, mean = (values[0], values[-1], 0.0) if values else (None, None, 0.0)
    else:
        number = column.cast(pl.Float64)
        stats = scan.select(least=number.min(), most=number.max(), mean=number.mean()).collect()
        least, most, mean = stats.row(0)
        values = []
    if least is None:
        raise TrainingError(
            f"{where}: target {name!r} has no value in any row of {source.table.name} version "
            f"{source.version}."
        )
    if least == most:
        raise TrainingError(
            f"{where}: target {name!r} is {least!r} in every row of {source.table.name} version "
            f"{source.version}; there is nothing to learn."
        )
    if not classifier:
        return Target(classes=None, mean=float(mean))
    classes = tuple(v if isinstance(v, str | bool | int) else _label(v) for v in values)
    return Target(classes=classes, mean=0.0)


def has_new_labels(declaration: ModelDeclaration, source: Source, target: Target) -> bool:
    """Whether a classifier's target has values that are not among the known classes."""
    import polars as pl

    if target.classes is None:
        return False
    found = source.scan().select(pl.col(declaration.target).drop_nulls().unique()).collect()
    labels = (v for v in found.to_series().to_list() if v == v)  # noqa: PLR0124  (NaN is no label)
    known = set(target.classes)
    return any((v if isinstance(v, str | bool | int) else _label(v)) not in known for v in labels)


def _label(value: Any) -> str | int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value)


def find_segments(declaration: ModelDeclaration, source: Source) -> Segments:
    """The distinct segments with their numbers of rows.

    Raises:
        TrainingError: The table has no rows.
    """
    import polars as pl

    by = list(declaration.by)
    if by:
        counts = source.scan().group_by(by).agg(rows=pl.len()).sort(by).collect()
    else:
        counts = source.scan().select(rows=pl.len()).collect()
    offsets = np.concatenate([[0], np.cumsum(counts["rows"].to_numpy().astype(np.int64))])
    if not offsets[-1]:
        raise TrainingError(
            f"{_where(declaration)}: {source.table.name} has no rows at version {source.version}."
        )
    _warn_of_identifiers(declaration, counts["rows"].to_numpy())
    return segments_of(source, counts.select(by), offsets)


def _warn_of_identifiers(declaration: ModelDeclaration, rows: np.ndarray[Any, Any]) -> None:
    """Say before the first fit when most segments are too small to be fitted."""
    small = int(np.count_nonzero(rows < declaration.min_rows))
    single = int(np.count_nonzero(rows == 1))
    if len(rows) <= _MANY or max(small, single) * 2 <= len(rows):
        return
    few = (
        "only one row; nearly every row is its own segment"
        if single * 2 > len(rows)
        else (f"fewer than min_rows={declaration.min_rows} rows")
    )
    count = single if single * 2 > len(rows) else small
    warnings.warn(
        f"{_where(declaration)}: by={list(declaration.by)} makes {len(rows):,} segments of "
        f"{int(rows.sum()):,} rows, and {count:,} of them have {few}: is that an identifier "
        "column?",
        stacklevel=4,
    )


def segments_of(source: Source, keys: pl.DataFrame, offsets: np.ndarray[Any, Any]) -> Segments:
    """Segments by the values of their key columns, in order.

    Args:
        source: The table.
        keys: The ``by`` columns, one row per segment.
        offsets: Row offsets.
    """
    names = keys.columns
    fields = [pa.field(name, _plain(source.schema.field(name).type)) for name in names]
    values = pa.table(
        {f.name: keys[f.name].to_arrow().cast(f.type) for f in fields}, pa.schema(fields)
    )
    if not names:
        return Segments(values=values, texts=[()], keys=["[]"], offsets=offsets)
    columns = [key_texts(values.column(name)) for name in names]
    texts = list(zip(*(column.to_pylist() for column in columns), strict=True))
    canonical = segment_keys(columns).to_pylist()
    return Segments(values=values, texts=texts, keys=canonical, offsets=offsets)


def _plain(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if types.is_large_string(kind) or types.is_string_view(kind) else kind


def _where(declaration: ModelDeclaration) -> str:
    return f"Model {declaration.name!r} ({declaration.location})"
