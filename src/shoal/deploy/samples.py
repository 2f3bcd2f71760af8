"""Sample requests: rows as a client would send them, with the registry's answers."""

from __future__ import annotations

import csv
import http.client
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.models import Fleet

__all__ = ["differs", "make_samples", "replay"]

_SINGLES = 20
_DATATYPES = {"string": "BYTES", "long": "INT64", "double": "FP64", "boolean": "BOOL"}
# BLAS adds in another order for many rows than for one.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


def make_samples(
    fleet: Fleet, inputs: Mapping[str, str], rows: pa.Table, model: str
) -> list[dict[str, Any]]:
    """Requests in both protocols, each with the predictions that the fleet gives now.

    Args:
        fleet: The registry's fleet.
        inputs: Input columns in order, each with its MLflow type name.
        rows: Some rows, with these columns in the types of the signature.
        model: The model's name.

    Returns:
        Each with ``name``, ``path``, ``type``, ``body``, ``status``, and ``predictions``.
    """
    rows = _with_unseen(fleet, rows.select(list(inputs)), inputs)
    expected = _plain(fleet.predict(rows).column("prediction"))
    columns = {name: _plain(rows.column(name)) for name in inputs}
    records = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    path = f"/models/{model}/invocations"
    samples = [
        _json(f"row {i}", path, {"dataframe_records": [record]}, [expected[i]])
        for i, record in enumerate(records[:_SINGLES])
    ]
    split = {"columns": list(inputs), "data": [list(record.values()) for record in records]}
    samples.append(_json("all rows", "/invocations", {"dataframe_split": split}, expected))
    whole = [i for i, record in enumerate(records) if None not in record.values()]
    if whole and all(kind in _DATATYPES for kind in inputs.values()):
        answers = [expected[i] for i in whole]
        tensors = [
            {
                "name": name,
                "datatype": _DATATYPES[kind],
                "shape": [len(whole)],
                "data": [columns[name][i] for i in whole],
            }
            for name, kind in inputs.items()
        ]
        samples.append(_json("tensors", f"/v2/models/{model}/infer", {"inputs": tensors}, answers))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([list(inputs), *(list(records[i].values()) for i in whole)])
        samples.append(
            {
                "name": "CSV",
                "path": "/invocations",
                "type": "text/csv",
                "body": text.getvalue(),
                "status": 200,
                "predictions": answers,
            }
        )
    samples.append({**_json("a wrong request", "/invocations", {}, []), "status": 400})
    return samples


def _with_unseen(fleet: Fleet, rows: pa.Table, inputs: Mapping[str, str]) -> pa.Table:
    """Also the first row as one of a segment that the fleet has never seen."""
    import pyarrow as pa

    by = fleet.header.by
    if not by or inputs[by[-1]] != "string" or not rows.num_rows:
        return rows
    row = rows.slice(0, 1)
    unseen = pa.array(["never seen"], row.column(by[-1]).type)
    row = row.set_column(row.column_names.index(by[-1]), by[-1], unseen)
    return pa.concat_tables([rows, row.cast(rows.schema)])


def _plain(column: pa.ChunkedArray) -> list[Any]:
    values = column.to_pylist()
    return [
        None
        if isinstance(value, float) and math.isnan(value)
        else value.isoformat()
        if hasattr(value, "isoformat")
        else value
        for value in values
    ]


def _json(name: str, path: str, body: object, predictions: Sequence[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "path": path,
        "type": "application/json",
        "body": json.dumps(body, ensure_ascii=False),
        "status": 200,
        "predictions": list(predictions),
    }


def replay(
    url: str, samples: Sequence[Mapping[str, Any]], *, timeout: float = 30.0
) -> tuple[list[str], list[float]]:
    """Sends each sample and compares the answer.

    Args:
        url: A server.
        samples: What `make_samples` made.
        timeout: Seconds that an answer may take.

    Returns:
        What differs, in words, and the seconds of each answered request. The first request that
        is not answered is the last.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    wrong, seconds = [], []
    try:
        for sample in samples:
            begun = time.perf_counter()
            body = str(sample["body"]).encode()
            try:
                connection.request("POST", sample["path"], body, {"content-type": sample["type"]})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                wrong.append(f"{sample['name']}: no answer ({error!r})")
                break
            seconds.append(time.perf_counter() - begun)
            if fault := differs(sample, answer.status, content):
                wrong.append(f"{sample['name']}: {fault}")
    finally:
        connection.close()
    return wrong, seconds


def differs(sample: Mapping[str, Any], status: int, content: bytes) -> str | None:
    """How an answer differs from a sample's, in words; None when it is the same."""
    if status != sample["status"]:
        text = content[:300].decode("utf-8", "replace")
        return f"status {status} instead of {sample['status']}: {text}"
    if status != 200:
        return None
    answer = json.loads(content)
    if "outputs" in answer:
        found = answer["outputs"][0]["data"]
    else:
        found = [p["prediction"] if isinstance(p, dict) else p for p in answer["predictions"]]
    expected = sample["predictions"]
    if len(found) != len(expected):
        return f"{len(found)} predictions instead of {len(expected)}"
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        if not _same(one, other):
            return f"prediction {i} is {one!r} instead of {other!r}"
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(one == other)
