"""Columns of JSON values to the Arrow table that a fleet predicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError
from shoal.serving.protocol import Columns, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_table"]


def arrow_table(columns: Columns, inputs: Mapping[str, str]) -> pa.Table:
    """Converts each column to the type that the model's signature gives it.

    As stock MLflow does, numbers may be written as text and booleans count as 0 and 1; unlike it,
    a fraction is refused for a whole-number column instead of being cut off, text and lists are
    refused for a boolean instead of being true when they are not empty, and null is a missing
    boolean, as it is in a batch, instead of false.

    Args:
        columns: The request's values.
        inputs: The model's columns with their MLflow types.

    Raises:
        RequestError: A value has the wrong type; the message names row, column, what was found
            and what was expected.
    """
    import pyarrow as pa

    kinds = {
        "string": (_text, pa.string(), "text"),
        "long": (_whole, pa.int64(), "a whole number"),
        "integer": (_whole_32, pa.int32(), "a whole number of 32 bits"),
        "double": (_number, pa.float64(), "a number or null"),
        "float": (_number, pa.float32(), "a number or null"),
        "boolean": (_boolean, pa.bool_(), "true, false or null"),
        "datetime": (_moment, pa.timestamp("us"), "a date and time such as 2024-05-01T12:00:00"),
    }
    arrays = {}
    for name, kind in inputs.items():
        convert, arrow, expected = kinds[kind]
        found = _plain(columns.values[name], arrow)
        if found is None:
            found = pa.array(_column(columns.values[name], convert, name, expected), arrow)
        arrays[name] = found
    return pa.table(arrays)


def _plain(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    """Values that are of their type already, all at once; None when one of them is not."""
    import pyarrow as pa

    kinds: dict[pa.DataType, set[type]] = {
        pa.string(): {str, type(None)},
        pa.int64(): {int},
        pa.int32(): {int},
        pa.float64(): {float, int, type(None)},
        pa.float32(): {float, int, type(None)},
        pa.bool_(): {bool, type(None)},
    }
    if not set(map(type, values)) <= kinds.get(kind, set()):
        return None
    try:
        found = pa.array(values, kind)
    except (pa.ArrowException, ValueError, OverflowError):  # numbers too large, lone surrogates
        return None
    missing = found.null_count and pa.types.is_floating(kind)
    return found.fill_null(float("nan")) if missing else found


def _column(
    values: Sequence[Any], convert: Callable[[Any], Any], name: str, expected: str
) -> list[Any]:
    try:
        return [convert(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        pass
    for row, value in enumerate(values):
        try:
            convert(value)
        except (TypeError, ValueError, OverflowError):
            scalar = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            found = f"{value!r:.60}" if scalar else kind_of(value)
            raise RequestError(
                f"Row {row}, column '{name}': found {found}; expected {expected}."
            ) from None
    raise AssertionError("a conversion failed once, and then did not")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    raise TypeError


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, (float, int, str)):
        return float(value)
    raise TypeError


def _whole(value: Any) -> int:
    number = value
    if isinstance(value, str):
        number = int(value)
    elif isinstance(value, float):
        if not value.is_integer():
            raise ValueError
        number = int(value)
    if not isinstance(number, int) or not -(2**63) <= number < 2**63:
        raise TypeError
    return int(number)


def _whole_32(value: Any) -> int:
    number = _whole(value)
    if not -(2**31) <= number < 2**31:
        raise OverflowError
    return number


def _boolean(value: Any) -> bool | None:
    if value is None:
        return None
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise TypeError


def _moment(value: Any) -> dt.datetime | None:
    if value is None:
        return None
    moment = dt.datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return moment
