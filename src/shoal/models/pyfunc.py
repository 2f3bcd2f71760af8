"""MLflow's loader-module protocol: stock MLflow loads a fleet through this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import RequestError
from shoal.models.fleet import Fleet

__all__ = ["FleetModel"]


class FleetModel:
    """A fleet as MLflow sees it: tables in, an array of predictions out."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def predict(
        self,
        model_input: Any,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """Predict each row with its segment's model.

        Args:
            model_input: A pandas DataFrame, a mapping of column names to values, or a 2-D array
                whose columns are the ``by`` columns followed by the features.
            params: ``{"interval": True}`` asks for prediction intervals.

        Returns:
            One prediction per row, in order, as an array; NaN (or None for classes) where there
            is none. With intervals a pandas DataFrame with the columns ``prediction``,
            ``prediction_lower`` and ``prediction_upper``.

        Raises:
            RequestError: The input does not fit, or intervals were asked of a model without.
        """
        rows = self._table(model_input)
        if params and params.get("interval"):
            return self.fleet.predict(rows, interval=True).to_pandas()
        predicted = self.fleet.predict(rows).column("prediction")
        found: np.ndarray[Any, Any] = predicted.to_numpy()
        return found

    def _table(self, model_input: Any) -> pa.Table:
        if isinstance(model_input, pa.Table):
            return model_input
        if hasattr(model_input, "columns") and hasattr(model_input, "iloc"):
            return pa.Table.from_pandas(model_input, preserve_index=False)
        if isinstance(model_input, dict):
            return pa.table({k: np.atleast_1d(np.asarray(v)) for k, v in model_input.items()})
        header = self.fleet.header
        names = [*header.by, *(f.name for f in header.features)]
        array = np.asarray(model_input)
        if array.ndim != 2 or array.shape[1] != len(names):
            raise RequestError(
                f"found an array of shape {array.shape}; expected (rows, {len(names)}) with the "
                f"columns {', '.join(names)}."
            )
        return pa.table({n: pa.array(array[:, i].tolist()) for i, n in enumerate(names)})


def _load_pyfunc(path: str) -> FleetModel:
    return FleetModel(Fleet.open(Path(path)))
