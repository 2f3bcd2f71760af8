"""MLflow's scoring protocol: a request's bytes to columns of JSON values.

Source: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally and MLflow's
``pyfunc/scoring_server``. Which bodies are accepted, and what they mean, is as there, with these
exceptions, each a 400 here: rows of ``dataframe_split`` that are shorter than its columns (MLflow
fills them with missing values), ``NaN`` or ``Infinity``, which are not JSON (RFC 8259), and what
`arrow_table` says of values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.errors import RequestError

__all__ = ["Columns", "kind_of", "read_csv", "read_json"]

_SHAPES = ("dataframe_split", "dataframe_records", "instances", "inputs")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A request's table, column by column.

    Args:
        values: JSON values of each column, all of one length. Only columns that the model has.
        rows: Number of rows.
        interval: Prediction intervals are asked for: the parameter ``interval``.
    """

    values: Mapping[str, Sequence[Any]]
    rows: int
    interval: bool = False


def read_json(body: bytes, names: Sequence[str]) -> Columns:
    """Reads a JSON body that holds exactly one of MLflow's four shapes.

    Args:
        body: UTF-8 JSON.
        names: The model's input columns; other columns are ignored.

    Raises:
        RequestError: It is no JSON, or none of the shapes; the message says what was found.
    """
    import orjson

    if not body.strip():
        raise RequestError(f"The body is empty; {_expected()}")
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = " NaN and Infinity are not JSON: send null." if _has_nan(body) else ""
        raise RequestError(f"The body is not valid JSON: {error}.{hint}") from None
    if not isinstance(request, dict):
        raise RequestError(f"The body is {kind_of(request)}; {_expected()}")
    found = [shape for shape in _SHAPES if shape in request]
    if len(found) != 1:
        what = f"both {' and '.join(found)}" if found else f"the fields {_listed(request)}"
        raise RequestError(f"The body has {what}; {_expected()}")
    columns = _table(found[0], request[found[0]], names)
    return replace(columns, interval=_interval(request.get("params")))


def _interval(params: Any) -> bool:
    """What MLflow's ``params`` ask for; it ignores those that a model does not have."""
    if params is None:
        return False
    if not isinstance(params, dict):
        raise RequestError(f"params is {kind_of(params)}; expected an object.")
    asked = params.get("interval", False)
    if not isinstance(asked, bool):
        raise RequestError(f"The parameter interval is {kind_of(asked)}; expected a boolean.")
    return asked


def _table(shape: str, data: Any, names: Sequence[str]) -> Columns:
    if shape == "dataframe_split":
        return _split(data, names)
    if shape == "dataframe_records":
        if not isinstance(data, list):
            raise RequestError(f"dataframe_records is {kind_of(data)}; expected a list of objects.")
        return _records(data, names, shape)
    if shape == "instances" and isinstance(data, list) and data and isinstance(data[0], dict):
        return _instances(data, names)
    return _inputs(data, names, shape)


def _expected() -> str:
    return f"expected a JSON object with exactly one of {', '.join(_SHAPES)}."


def _has_nan(body: bytes) -> bool:
    return b"NaN" in body or b"Infinity" in body


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number")


def _listed(found: Mapping[str, object]) -> str:
    names = [repr(name[:40]) for name in list(found)[:5]]
    return ", ".join(names) + (", ..." if len(found) > 5 else "") if names else "none"


def _missing(names: Sequence[str], found: Mapping[str, object]) -> RequestError:
    absent = [name for name in names if name not in found]
    return RequestError(
        f"The request lacks the column{'s' if len(absent) > 1 else ''} "
        f"{', '.join(repr(name) for name in absent)}; found {_listed(found)}; "
        f"expected {', '.join(names)}."
    )


def _split(data: Any, names: Sequence[str]) -> Columns:
    if not isinstance(data, dict):
        raise RequestError(f"dataframe_split is {kind_of(data)}; expected an object with 'data'.")
    extra = [key for key in data if key not in {"columns", "index", "data"}]
    if "data" not in data or extra:
        raise RequestError(
            f"dataframe_split has {_listed(data)}; expected 'columns', 'data' and maybe 'index'."
        )
    columns, rows, index = data.get("columns"), data["data"], data.get("index")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise RequestError("dataframe_split needs 'columns', a list of column names.")
    doubled = [name for name, count in Counter(columns).items() if count > 1]
    if doubled:
        raise RequestError(f"dataframe_split has the column {doubled[0]!r:.60} more than once.")
    if not isinstance(rows, list):
        raise RequestError(
            f"dataframe_split has {kind_of(rows)} as 'data'; expected a list of rows."
        )
    plain = set(map(type, rows)) <= {list} and set(map(len, rows)) <= {len(columns)}
    for number, row in enumerate(() if plain else rows):
        if not isinstance(row, list) or len(row) != len(columns):
            what = f"{len(row)} values" if isinstance(row, list) else kind_of(row)
            raise RequestError(
                f"Row {number} of dataframe_split is {what}; expected a list of {len(columns)} "
                "values, one per column."
            )
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        what = f"{len(index)} entries" if isinstance(index, list) else kind_of(index)
        raise RequestError(f"dataframe_split has an index of {what} for {len(rows)} rows.")
    place = {name: position for position, name in enumerate(columns)}
    if not all(name in place for name in names):
        raise _missing(names, place)
    found = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return Columns(values={name: found[place[name]] for name in names}, rows=len(rows))


def _records(data: list[Any], names: Sequence[str], shape: str) -> Columns:
    """Rows as objects; a field that some rows leave out is missing there."""
    for number, row in enumerate(data):
        if not isinstance(row, dict):
            raise RequestError(f"Row {number} of {shape} is {kind_of(row)}; expected an object.")
    found = {name: None for row in data for name in row}
    if not all(name in found for name in names):
        raise _missing(names, found)
    return Columns(values={n: [row.get(n) for row in data] for n in names}, rows=len(data))


def _instances(data: list[Any], names: Sequence[str]) -> Columns:
    """Rows as objects that all have the same fields."""
    columns = _records(data, names, "instances")
    for number, row in enumerate(data):
        for name in names:
            if name not in row:
                raise RequestError(
                    f"Row {number} of instances lacks '{name}', which other rows have."
                )
    return columns


def _inputs(data: Any, names: Sequence[str], shape: str) -> Columns:
    """Columns as an object of lists, or of single values; a list of rows; or the only column."""
    if isinstance(data, list):
        if not any(isinstance(row, dict) for row in data) and len(names) == 1 and data:
            return Columns(values={names[0]: data}, rows=len(data))
        if data and list(names) == [str(at) for at in range(len(names))]:
            return _matrix(data, names, shape)
        return _records(data, names, shape)
    if not isinstance(data, dict):
        raise RequestError(
            f"{shape} is {kind_of(data)}; expected an object of columns or a list of objects."
        )
    if not all(name in data for name in names):
        raise _missing(names, data)
    lengths = {name: len(data[name]) for name in names if isinstance(data[name], list)}
    if len(set(lengths.values())) > 1:
        few, many = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise RequestError(
            f"The columns of {shape} differ in length: '{few}' has {lengths[few]} values, "
            f"'{many}' has {lengths[many]}."
        )
    rows = next(iter(lengths.values()), 1)
    return Columns(
        values={n: data[n] if n in lengths else [data[n]] * rows for n in names}, rows=rows
    )


def _matrix(data: list[Any], names: Sequence[str], shape: str) -> Columns:
    """Rows as lists, for a model whose columns have no names: its signature is a tensor."""
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            what = f"{len(row)} values" if isinstance(row, list) else kind_of(row)
            raise RequestError(
                f"Row {number} of {shape} is {what}; expected a list of {len(names)} numbers."
            )
    turned = zip(*data, strict=True)
    return Columns(values=dict(zip(names, turned, strict=True)), rows=len(data))


def read_csv(body: bytes, inputs: Mapping[str, str]) -> Columns:
    """Reads CSV with a header line, as ``pandas.DataFrame.to_csv(index=False)`` writes it.

    Args:
        body: UTF-8 text.
        inputs: The model's columns with their MLflow types; other columns are ignored.

    Raises:
        RequestError: It is no such CSV.
    """
    import io

    import pandas as pd

    if not body.strip():
        raise RequestError("The body is empty; expected CSV with a header line.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"The body is not UTF-8: {error}.") from None
    kinds = {"long": "int64", "integer": "int32", "double": "float64", "float": "float64"}
    kinds["boolean"] = "boolean"
    dtypes = {name: kinds.get(kind, "object") for name, kind in inputs.items()}
    try:
        # pandas' default parser is fast and off by a bit; numbers must equal a batch's.
        frame = pd.read_csv(io.StringIO(text), dtype=dtypes, float_precision="round_trip")
    except Exception as error:  # noqa: BLE001 - pandas raises many kinds; all are the sender's
        raise RequestError(f"The body is not valid CSV for this model: {error}") from None
    names = list(inputs)
    if not all(name in frame.columns for name in names):
        raise _missing(names, {str(name): None for name in frame.columns})
    frame = frame[names].astype(object)
    frame = frame.where(frame.notna(), None)
    return Columns(values={name: frame[name].tolist() for name in names}, rows=len(frame))
