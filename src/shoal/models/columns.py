"""Feature columns as the arrays that estimators take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.errors import ModelError, RequestError, nearest

__all__ = [
    "accepts_nan",
    "by_position",
    "feature_columns",
    "is_feature_type",
    "is_moment_type",
    "numbers",
    "one_column",
    "seconds_of",
]


def is_feature_type(kind: pa.DataType) -> bool:
    """Whether a column of that type can be a feature: numeric or boolean."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    )


def is_moment_type(kind: pa.DataType) -> bool:
    """Whether a column of that type holds moments: as a feature, seconds since 1970 (UTC)."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def seconds_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Moments as seconds since 1970, float64; a time without a zone counts as UTC."""
    ticks = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return pc.divide(ticks.cast(pa.float64()), 1e6)


def feature_columns(
    rows: pa.Table, features: Sequence[str], model: str
) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """The features as float64 arrays of shape (rows,); nulls become NaN, moments seconds.

    Args:
        rows: A table with the feature columns.
        features: Their names, in the estimator's order.
        model: The model's name, for error messages.

    Raises:
        RequestError: A column is missing or holds something that is not a number; names the
            first such row.
    """
    found = []
    for name in features:
        if name not in rows.column_names:
            raise RequestError(
                f"feature column {name!r} is missing; model {model!r} expects "
                f"{', '.join(features)}; found {', '.join(rows.column_names)}."
            )
        column = one_column(rows, name)
        kind = column.type
        if pa.types.is_null(kind):
            found.append(np.full(rows.num_rows, np.nan))
            continue
        if is_moment_type(kind):
            column, kind = seconds_of(column), pa.float64()
        if not is_feature_type(kind):
            raise _wrong(column, name, kind)
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        found.append(column.cast(pa.float64(), safe=False).to_numpy())
    return found


def numbers(
    column: pa.Array | pa.ChunkedArray, missing: float = 0
) -> np.ndarray[Any, np.dtype[Any]]:
    """A column of numbers or booleans (as 0 and 1) as an array, not to be written to.

    Arrow's own conversions import pandas, where it is installed: half a second and 40 MB.

    Args:
        column: Any numbers.
        missing: What stands for null.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    name = str(array.type)
    dtype = np.dtype({"double": "float64", "float": "float32"}.get(name, name))
    size = len(array)
    if not size:
        return np.empty(0, dtype)
    found = np.frombuffer(array.buffers()[1], dtype, array.offset + size)[array.offset :]
    if array.null_count:
        found = np.where(numbers(array.is_null()), np.array(missing, dtype), found)
    return found


def one_column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """A column that is there once.

    Raises:
        RequestError: Several columns have that name.
    """
    count = rows.column_names.count(name)
    if count > 1:
        raise RequestError(f"column {name!r} is there {count} times; expected once.")
    return rows.column(name)


def _wrong(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> RequestError:
    first = max(pc.index(column.is_valid(), True).as_py(), 0)
    found = column[first].as_py() if len(column) else None
    return RequestError(
        f"row {first}, column {name!r}: found {found!r} ({kind}); expected a number."
    )


def accepts_nan(estimator: Any) -> bool:
    """Whether an estimator takes NaN in its features, looking through pipelines."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.utils import get_tags

    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if step is None or step == "passthrough":
                continue
            if not accepts_nan(step):
                return False
            if _imputes(step):
                return True
        return True
    if isinstance(estimator, FeatureUnion | ColumnTransformer):
        return all(accepts_nan(part) for part in _parts(estimator))
    if not hasattr(estimator, "__sklearn_tags__"):
        return False
    return bool(get_tags(estimator).input_tags.allow_nan)


def by_position(estimator: Any, features: Sequence[str]) -> bool:
    """Turn the column names inside an unfitted estimator's transformers into positions.

    Estimators of a fleet get arrays, whose columns have positions only.

    Args:
        estimator: The estimator; changed in place.
        features: The names of the array's columns.

    Returns:
        Whether there was any name.

    Raises:
        ModelError: A name is no feature, or columns are chosen by a function.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    from shoal.forecast import Fourier

    if isinstance(estimator, Pipeline):
        # A sum, because every part must be visited.
        return sum(by_position(step, features) for _, step in estimator.steps) > 0
    if isinstance(estimator, FeatureUnion):
        return sum(by_position(part, features) for _, part in estimator.transformer_list) > 0
    if isinstance(estimator, Fourier) and isinstance(estimator.column, str):
        estimator.column = _places(estimator.column, features, "Fourier")
        return True
    if not isinstance(estimator, ColumnTransformer):
        return False
    placed = [(name, part, _places(on, features)) for name, part, on in estimator.transformers]
    changed = placed != estimator.transformers
    estimator.transformers = placed
    return sum(by_position(part, features) for _, part, _ in placed) > 0 or changed


def _places(columns: Any, features: Sequence[str], owner: str = "ColumnTransformer") -> Any:
    if callable(columns):
        raise ModelError(
            "A ColumnTransformer chooses its columns by a function, which needs a data frame.",
            hint=f"name them: any of {', '.join(features)}",
        )
    if isinstance(columns, str):
        if columns not in features:
            near = nearest(columns, features)
            raise ModelError(
                f"A {owner} names column {columns!r}, which is no feature; features "
                f"are {', '.join(features)}.",
                hint=f"did you mean {near!r}?" if near else None,
            )
        return list(features).index(columns)
    if isinstance(columns, list | tuple):
        return [_places(column, features) for column in columns]
    return columns


def _imputes(step: Any) -> bool:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    if isinstance(step, Pipeline):
        return any(_imputes(s) for _, s in step.steps)
    if isinstance(step, FeatureUnion | ColumnTransformer):
        passes = getattr(step, "remainder", "drop") == "passthrough" or any(
            t[1] == "passthrough" for t in getattr(step, "transformers", ())
        )
        return not passes and all(_imputes(part) for part in _parts(step))
    return type(step).__name__ in ("SimpleImputer", "KNNImputer", "IterativeImputer")


def _parts(union: Any) -> list[Any]:
    pairs = getattr(union, "transformers", None) or union.transformer_list
    return [pair[1] for pair in pairs if not isinstance(pair[1], str)]
