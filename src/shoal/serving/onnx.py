"""ONNX Runtime instead of a model's own library, where both are proven to say the same.

Proven means: on the model's input example and on rows made from it (values exchanged between rows,
moved by up to their spread, and missing where the model takes missing values), labels are equal
and numbers differ by at most `TOLERANCE` of their size. What does not convert, or differs, is
served the usual way, and the log says why.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from shoal.errors import ShoalError

__all__ = ["TOLERANCE", "NotEqual", "OnnxEstimator", "proven"]

TOLERANCE = 1e-5  # of the size of a prediction; trees and boosters compute with 24 bits
_MADE = 256

Array = np.ndarray[Any, Any]


class NotEqual(ShoalError):
    """The converted model does not exist, or says something else."""


class OnnxEstimator:
    """A converted estimator: ``predict`` takes a float64 matrix of shape (rows, features).

    Args:
        content: The ONNX model.
        single: It takes float32.
    """

    def __init__(self, content: bytes, *, single: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Requests are many and small: threads inside of one would only take turns.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._dtype = np.float32 if single else np.float64

    def predict(self, matrix: Array) -> Array:
        """Predictions of shape (rows,)."""
        given = np.ascontiguousarray(matrix, dtype=self._dtype)
        found = np.asarray(self._session.run([self._output], {self._input: given})[0])
        return found.reshape(-1) if found.ndim == 2 and found.shape[1] == 1 else found


def proven(
    estimator: Any,
    example: Array,
    *,
    gaps: bool = False,
) -> tuple[OnnxEstimator, float]:
    """A converted estimator, and by how much it differs on the sample rows at most.

    Args:
        estimator: A fitted estimator of scikit-learn, XGBoost or LightGBM.
        example: Rows that it may be asked for, float64 of shape (rows, features).
        gaps: It takes missing values.

    Raises:
        NotEqual: It does not convert, or predicts something else.
    """
    rows = _samples(example, gaps=gaps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without names are as good here
        expected = np.asarray(_predicted(estimator, rows))
        return _proven(estimator, rows, expected)


def _predicted(estimator: Any, rows: Array) -> Any:
    if type(estimator).__name__ == "Booster" and hasattr(estimator, "inplace_predict"):
        return estimator.inplace_predict(rows, validate_features=False)  # XGBoost's own class
    return estimator.predict(rows)


def _proven(estimator: Any, rows: Array, expected: Array) -> tuple[OnnxEstimator, float]:
    if expected.ndim == 2 and expected.shape[1] == 1:
        expected = expected.reshape(-1)
    reasons = []
    for single in (False, True):
        try:
            made = OnnxEstimator(_converted(estimator, rows.shape[1], single), single=single)
            found = made.predict(rows)
        except Exception as error:  # noqa: BLE001 - converters raise whatever they like
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{type(error).__name__}: {lines[0][:200]}")
            continue
        difference = _difference(expected, found)
        if difference <= TOLERANCE:
            return made, difference
        reasons.append(f"predictions differ by {difference:.1g} of their size")
    raise NotEqual("; ".join(dict.fromkeys(reasons)))


def _converted(estimator: Any, features: int, single: bool) -> bytes:
    library = type(estimator).__module__.partition(".")[0]
    if library in ("xgboost", "lightgbm"):
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        if not single:
            raise NotEqual("boosters take float32 only")
        types = [("X", FloatTensorType([None, features]))]
        made = getattr(onnxmltools, f"convert_{library}")(estimator, initial_types=types)
        return bytes(made.SerializeToString())
    import skl2onnx
    from skl2onnx.common import data_types

    kind = data_types.FloatTensorType if single else data_types.DoubleTensorType
    made = skl2onnx.convert_sklearn(estimator, initial_types=[("X", kind([None, features]))])
    return bytes(made.SerializeToString())


def _samples(example: Array, *, gaps: bool) -> Array:
    """The example and rows made from it, the same ones each time."""
    random = np.random.default_rng(0)
    rows = np.asarray(example, dtype=np.float64)
    rows = rows[~np.isinf(rows).any(axis=1)]
    if not gaps:
        rows = rows[~np.isnan(rows).any(axis=1)]
    if not len(rows):
        raise NotEqual("the model has no input example without missing values to prove it on")
    picks = random.integers(0, len(rows), (_MADE, rows.shape[1]))
    made = rows[picks, np.arange(rows.shape[1])]
    spread = np.nan_to_num(np.nanstd(rows, axis=0)) + 1e-3 * np.nan_to_num(
        np.abs(rows).max(axis=0), nan=1.0
    )
    moved = made + random.normal(size=made.shape) * spread * (random.random(made.shape) < 0.5)
    if gaps:
        moved[random.random(made.shape) < 0.05] = np.nan
    return np.concatenate([rows, moved])


def _difference(expected: Array, found: Array) -> float:
    """The largest difference of numbers, by their size; of labels 0 or infinity."""
    if expected.shape != found.shape:
        return np.inf
    if expected.dtype.kind != "f":
        same = expected.astype(str) == found.astype(str)
        return 0.0 if bool(same.all()) else np.inf
    size = np.maximum(np.abs(expected), np.abs(expected).mean()) + np.finfo(np.float64).tiny
    gap = np.abs(expected - found.astype(np.float64)) / size
    both = np.isnan(expected) & np.isnan(found.astype(np.float64))
    return float(np.where(both, 0.0, np.nan_to_num(gap, nan=np.inf)).max())
