"""The Open Inference Protocol, version 2: tensors to columns, and predictions to tensors.

Source: https://github.com/kserve/open-inference-protocol (REST), as KServe and MLServer speak it.
A model's inputs are columns, so each is a tensor of shape ``[rows]`` or ``[rows, 1]`` of that
name; a model whose inputs are all numbers also takes one tensor of shape ``[rows, inputs]``.
The binary tensor extension is not spoken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError
from shoal.serving.answers import json_values
from shoal.serving.protocol import Columns, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.serving.served import ServedModel

__all__ = ["metadata", "read_infer", "tensor"]

_WHOLE = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_REAL = {"FP16", "FP32", "FP64", "BF16"}
_DATATYPES = {
    "string": "BYTES",
    "long": "INT64",
    "integer": "INT32",
    "double": "FP64",
    "float": "FP32",
    "boolean": "BOOL",
    "datetime": "BYTES",
}
_NUMERIC = {"long", "integer", "double", "float", "boolean"}


def metadata(model: ServedModel, versions: Sequence[int]) -> dict[str, Any]:
    """The answer of ``GET /v2/models/{name}``."""
    inputs = [
        {"name": name, "datatype": _DATATYPES[kind], "shape": [-1]}
        for name, kind in model.inputs.items()
    ]
    output = {"name": "prediction", "datatype": _output_type(model), "shape": [-1]}
    return {
        "name": model.name,
        "versions": [str(version) for version in versions],
        "platform": "shoal_fleet",
        "inputs": inputs,
        "outputs": [output],
    }


def _output_type(model: ServedModel) -> str:
    classes = model.fleet.header.classes
    if classes is None:
        return "FP64"
    kinds = {str: "BYTES", bool: "BOOL", int: "INT64"}
    return kinds[type(classes[0])]


def _datatype(values: list[Any]) -> str:
    """Of numbers or labels."""
    first = next((value for value in values if value is not None), 0.0)
    kinds = {str: "BYTES", bool: "BOOL", int: "INT64"}
    return kinds.get(type(first), "FP64")


def read_infer(body: bytes, inputs: Mapping[str, str]) -> tuple[Columns, str | None]:
    """Reads the body of an infer request.

    Args:
        body: UTF-8 JSON.
        inputs: The model's columns with their MLflow types.

    Returns:
        The columns, and the request's ``id``.

    Raises:
        RequestError: It is no such request; the message says what was found.
    """
    import orjson

    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise RequestError("The body is no infer request; expected an object with a list 'inputs'.")
    ident = request.get("id")
    if ident is not None and not isinstance(ident, str):
        raise RequestError(f"The request's id is {kind_of(ident)}; expected text.")
    _check_outputs(request.get("outputs"))
    tensors = [_tensor(item, number) for number, item in enumerate(request["inputs"])]
    names = [name for name, _, _ in tensors]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise RequestError(f"The input {doubled!r:.60} is there more than once.")
    if len(tensors) == 1 and len(tensors[0][1]) == 2 and tensors[0][1][1] == len(inputs) > 1:
        return _matrix(*tensors[0], inputs), ident
    values: dict[str, Sequence[Any]] = {}
    rows = None
    for name, shape, data in tensors:
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise RequestError(
                f"The input {name!r:.60} has the shape {shape}; expected [rows] or [rows, 1]."
            )
        if rows not in (None, shape[0]):
            raise RequestError(
                f"The input {name!r:.60} has {shape[0]} rows; those before it have {rows}."
            )
        rows = shape[0]
        values[name] = data
    missing = [name for name in inputs if name not in values]
    if missing:
        found = ", ".join(f"{name!r:.40}" for name in names[:10]) or "none"
        raise RequestError(
            f"The request lacks the input {missing[0]!r}; found {found}; expected "
            f"{', '.join(inputs)}."
        )
    return Columns(values={name: values[name] for name in inputs}, rows=rows or 0), ident


def _check_outputs(outputs: object) -> None:
    if outputs is None:
        return
    asked = outputs if isinstance(outputs, list) else [outputs]
    for item in asked:
        name = item.get("name") if isinstance(item, dict) else item
        if name != "prediction":
            raise RequestError(f"There is no output {name!r:.60}; expected 'prediction'.")


def _tensor(item: Any, number: int) -> tuple[str, list[int], list[Any]]:
    if not isinstance(item, dict):
        raise RequestError(f"Input {number} is {kind_of(item)}; expected an object.")
    name, shape, kind = item.get("name"), item.get("shape"), item.get("datatype")
    if not isinstance(name, str):
        raise RequestError(f"Input {number} has no name.")
    if not (
        isinstance(shape, list)
        and shape
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in shape)
    ):
        raise RequestError(
            f"The input {name!r:.60} has the shape {shape!r:.60}; expected a list of sizes."
        )
    if "data" not in item:
        raise RequestError(
            f"The input {name!r:.60} has no data; the binary extension is not spoken here."
        )
    data = _flat(item["data"])
    if len(data) != math.prod(shape):
        raise RequestError(f"The input {name!r:.60} has {len(data)} values for the shape {shape}.")
    return name, shape, _checked(data, kind, name)


def _flat(data: Any) -> list[Any]:
    """Nested lists in row-major order; the protocol allows both forms."""
    flat: list[Any] = data if isinstance(data, list) else [data]
    while any(isinstance(value, list) for value in flat):
        if not all(isinstance(value, list) for value in flat):
            raise RequestError("The data of an input mixes lists and values.")
        flat = [value for inner in flat for value in inner]
    return flat


def _checked(data: list[Any], kind: Any, name: str) -> list[Any]:
    expected: tuple[type, ...]
    if kind == "BYTES":
        expected, words = (str,), "text"
    elif kind == "BOOL":
        expected, words = (bool,), "booleans"
    elif kind in _WHOLE:
        expected, words = (int,), "whole numbers"
    elif kind in _REAL:
        expected, words = (int, float), "numbers"
    else:
        known = ", ".join(["BOOL", "BYTES", *sorted(_WHOLE), *sorted(_REAL)])
        raise RequestError(f"The input {name!r:.60} has the datatype {kind!r:.40}; known: {known}.")
    for row, value in enumerate(data):
        if value is None:
            continue
        if not isinstance(value, expected) or (isinstance(value, bool) and kind != "BOOL"):
            raise RequestError(
                f"Value {row} of the input {name!r:.60} is {kind_of(value)}; {kind} holds {words}."
            )
    return data


def _matrix(name: str, shape: list[int], data: list[Any], inputs: Mapping[str, str]) -> Columns:
    other = [column for column, kind in inputs.items() if kind not in _NUMERIC]
    if other:
        raise RequestError(
            f"The input {name!r:.60} is a matrix, but the model's column '{other[0]}' holds no "
            "numbers; send one tensor for each column."
        )
    width = len(inputs)
    values = {column: data[at::width] for at, column in enumerate(inputs)}
    return Columns(values=values, rows=shape[0])


def tensor(model: ServedModel, predictions: pa.Array, ident: str | None) -> dict[str, Any]:
    """The answer of an infer request; a row without a prediction is null.

    Args:
        model: Who predicted.
        predictions: One value a row.
        ident: The request's id, given back.
    """
    values, shape = json_values(predictions), [len(predictions)]
    if (
        isinstance(values, list) and values and isinstance(values[0], list | dict)
    ):  # several numbers a row, in row-major order
        values = [list(row.values()) if isinstance(row, dict) else row for row in values]
        shape, values = [*shape, len(values[0])], _flat(values)
    output = {
        "name": "prediction",
        "shape": shape,
        "datatype": _datatype(values) if isinstance(values, list) else "FP64",
        "data": values,
    }
    answer: dict[str, Any] = {
        "model_name": model.name,
        "model_version": str(model.version),
        "outputs": [output],
    }
    return answer if ident is None else {**answer, "id": ident}
