"""One model that answers like a fleet of one: its rows need no segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, RequestError, TrackingError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from shoal.models import FleetHeader
    from shoal.tracking import Recorded

__all__ = ["Single", "columns_of"]

_KINDS = ("string", "long", "integer", "double", "float", "boolean", "datetime")
_ALL = "[]"  # the key of the segment that is everything


class Single:
    """A model of any kind as a `shoal.serving.served.Predictor`.

    Args:
        name: Its name.
        version: Its version.
        inputs: Its columns, each with its MLflow type name.
        predict: From a pandas data frame, or an array where ``dtype`` is given, to an array or a
            data frame of as many rows.
        dtype: The model takes one array of this type, whose columns the inputs are.
    """

    def __init__(
        self,
        name: str,
        version: int,
        *,
        inputs: Mapping[str, str],
        predict: Callable[[Any], Any],
        dtype: str | None = None,
    ) -> None:
        from shoal.models.artifact import FeatureField, FleetHeader

        self._predict = predict
        self._dtype = dtype
        self.segments = 1
        self.header: FleetHeader = FleetHeader(
            model=name,
            fleet_version=version,
            task="regression",
            by=(),
            features=tuple(FeatureField(name=n, dtype=kind) for n, kind in inputs.items()),
            target="prediction",
            levels=((),),
            templates={},
            table="",
            table_version=0,
        )

    def predict(self, rows: pa.Table, *, explain: bool = False, interval: bool = False) -> pa.Table:
        """One row for each row; see `shoal.models.Fleet.predict`.

        Raises:
            ModelError: The model gives another number of rows.
            RequestError: Intervals are asked for.
        """
        import pyarrow as pa

        if interval:
            raise RequestError(f"model {self.header.model!r} has no prediction intervals.")
        names = [feature.name for feature in self.header.features]
        count = rows.num_rows
        answers = {"prediction": self._column(rows.select(names)) if count else pa.nulls(0)}
        if explain:
            whole = pa.repeat(pa.scalar(_ALL), count)
            answers |= {"segment": whole, "model_used": whole}
            answers["fallback"] = pa.repeat(pa.scalar(value=False), count)
        return pa.table(answers)

    def predict_few(
        self, keys: Sequence[tuple[str | None, ...]], features: Sequence[Sequence[float | None]]
    ) -> None:
        """Not without a table."""
        _ = keys, features

    def predict_columns(
        self, keys: Sequence[tuple[str | None, ...]], columns: Sequence[Sequence[float | None]]
    ) -> None:
        """Not without a table."""
        _ = keys, columns

    def _column(self, rows: pa.Table) -> pa.Array:
        import numpy as np
        import pandas as pd
        import pyarrow as pa

        given: Any = rows.to_pandas()
        if self._dtype is not None:
            given = given.to_numpy().astype(self._dtype)
        found = self._predict(given)
        if isinstance(found, pd.DataFrame) and found.shape[1] == 1:
            found = found.iloc[:, 0]
        if isinstance(found, pd.DataFrame):
            named = pa.Table.from_pandas(found.rename(columns=str), preserve_index=False)
            column: pa.Array = named.to_struct_array().combine_chunks()
        else:
            column = _array(np.asarray(found))
        if len(column) != rows.num_rows:
            raise ModelError(f"The model gave {len(column)} predictions for {rows.num_rows} rows.")
        return column


def _array(found: np.ndarray[Any, Any]) -> pa.Array:
    """Predictions as a column: numbers, text, or a list for each row."""
    import numpy as np
    import pyarrow as pa

    if found.ndim > 1 and found.shape[1:] == (1,) * (found.ndim - 1):
        found = found.reshape(-1)
    if found.ndim > 1:
        return pa.array(found.tolist())
    if found.dtype.kind == "f":
        return pa.array(found.astype(np.float64), mask=np.isnan(found))
    return pa.array(found.tolist())


def columns_of(recorded: Recorded) -> tuple[Mapping[str, str], str | None]:
    """The input columns of a version that MLflow logged, and the dtype where it takes an array.

    Raises:
        TrackingError: The version says nothing of its inputs, or takes some that no request has.
    """
    if recorded.shape is not None:
        dtype, (rows, *sizes) = recorded.shape
        if rows != -1 or len(sizes) != 1 or not 0 < sizes[0] <= 10_000:
            raise TrackingError(
                f"The model takes tensors of shape {recorded.shape[1]}; rows of one dimension, "
                "(-1, n), can be served.",
                hint=f"serve it with MLflow: mlflow models serve -m {recorded.folder}",
            )
        kind = "float" if dtype == "float32" else "double"
        return {str(at): kind for at in range(sizes[0])}, dtype
    if not recorded.inputs:
        raise TrackingError(
            "The model has no signature, so nobody knows which columns a request must bring.",
            hint="log it with one: log_model(..., input_example=rows)",
        )
    for name, kind in recorded.inputs.items():
        if kind not in _KINDS:
            raise TrackingError(
                f"The model's column '{name}' has the type {kind}; columns of "
                f"{', '.join(_KINDS)} can be served.",
                hint=f"serve it with MLflow: mlflow models serve -m {recorded.folder}",
            )
    return recorded.inputs, None
