"""A file of rows to a file of predictions, by a running server."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shoal.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.serving import Client

__all__ = ["score_file"]

_KINDS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "lines", ".ndjson": "lines"}
_ROWS = 2_000  # in a request
_AT_ONCE = 4


def score_file(
    url: str,
    source: str | Path,
    target: str | Path,
    *,
    model: str | None = None,
    token: str | None = None,
    client: Callable[..., Client] | None = None,
) -> int:
    """Lets a server predict the rows of a file; memory holds a few thousand rows at a time.

    One version answers for the whole file, however the registry moves meanwhile. The target is
    there whole or not at all.

    Args:
        url: Where the server is.
        source: ``.csv`` (with a header), ``.parquet``, ``.jsonl`` or ``.ndjson``. Text of a CSV
            becomes what the model's columns are, so that ``007`` stays a segment's key.
        target: The same kinds; the source's columns and ``prediction``.
        model: ``delay``, ``delay@champion`` or ``delay/3``; the server's default by default.
        token: The server's API token.
        client: Makes the clients; `shoal.serving.Client` by default.

    Returns:
        How many rows there were.

    Raises:
        RequestError: A file is of no such kind, or the server refuses the rows.
        Unavailable: The server does not answer.
    """
    from shoal.serving import Client
    from shoal.workspace.remote import served_version

    source, target, make = Path(source), Path(target), client or Client
    _kind(source), _kind(target)
    if not source.is_file():
        raise RequestError(f"There is no file {source}.")
    with make(url, token=token, retries=8) as asking:
        listing = asking.models()
    name = (model or "").partition("@")[0].partition("/")[0]
    found = next((m for m in listing if m["name"] == name or (not name and m["default"])), None)
    if found is None:
        served = ", ".join(m["name"] for m in listing)
        raise RequestError(
            f"{url} does not serve '{name}'; it serves {served}."
            if name
            else f"{url} has no default model; it serves {served}.",
            hint="Name one: shoal score MODEL --url ... --input ... --output ...",
        )
    pinned = f"{found['name']}/{served_version(found, model or found['name'])}"
    with make(url, model=pinned, token=token, retries=8) as asking:
        return _write(target, _predicted(asking, _read(source, found["inputs"])))


def _kind(path: Path) -> str:
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise RequestError(f"{path} is of no known kind; known: {', '.join(_KINDS)}.")
    return kind


def _read(source: Path, inputs: Mapping[str, str]) -> Iterator[pa.Table]:
    """The file's rows, a request's worth at a time."""
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "long": pa.int64(),
        "integer": pa.int32(),
        "double": pa.float64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "datetime": pa.string(),
    }
    types = {name: kinds[kind] for name, kind in inputs.items()}
    try:
        for batch in _batches(source, types):
            rows = pa.Table.from_batches([batch])
            if "prediction" in rows.column_names:
                raise RequestError(f"{source} has a column 'prediction' already.")
            for start in range(0, rows.num_rows, _ROWS):
                yield rows.slice(start, _ROWS)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise RequestError(f"{source} cannot be read: {error}") from error


def _batches(source: Path, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    kind = _kind(source)
    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(_ROWS)
    elif kind == "csv":
        from pyarrow import csv

        convert = csv.ConvertOptions(column_types=types)
        with csv.open_csv(source, convert_options=convert) as reader:
            yield from reader
    else:
        from pyarrow import json

        schema = pa.schema(list(types.items()))
        with json.open_json(source, parse_options=json.ParseOptions(explicit_schema=schema)) as r:
            yield from r


def _predicted(client: Client, tables: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, list[Any]]]:
    """Tables and their predictions, in order; a few requests are on their way at once."""
    waiting: deque[tuple[pa.Table, Future[list[Any]]]] = deque()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            for table in tables:
                waiting.append((table, threads.submit(client.predict, table)))
                if len(waiting) > _AT_ONCE:
                    rows, answer = waiting.popleft()
                    yield rows, answer.result()
            while waiting:
                rows, answer = waiting.popleft()
                yield rows, answer.result()
        finally:
            for _, answer in waiting:
                answer.cancel()


def _write(target: Path, found: Iterator[tuple[pa.Table, list[Any]]]) -> int:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    rows = 0
    try:
        with _Sink(part, _kind(target)) as sink:
            for table, predictions in found:
                sink.add(table, predictions)
                rows += table.num_rows
        if rows == 0:
            raise RequestError("The file has no rows.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return rows


class _Sink:
    """Writes a file whose type of predictions is known when the first one is not null."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._open = contextlib.ExitStack()
        self._type: pa.DataType | None = None
        self._held: list[tuple[pa.Table, list[Any]]] = []
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._open:
            if kind is None:
                self._flush()

    def add(self, table: pa.Table, predictions: list[Any]) -> None:
        import pyarrow as pa

        self._held.append((table, predictions))
        if self._type is None and any(value is not None for value in predictions):
            self._type = pa.array(predictions).type
        if self._type is not None:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        for table, predictions in self._held:
            column = pa.array(predictions, self._type or pa.float64())
            rows = table.append_column("prediction", column)
            if self._kind == "lines":
                self._lines(rows)
            else:
                self._writer = self._writer or self._columns(rows.schema)
                self._writer.write_table(rows)
        self._held = []

    def _columns(self, schema: pa.Schema) -> Any:
        import pyarrow as pa
        from pyarrow import csv, parquet

        make = parquet.ParquetWriter if self._kind == "parquet" else csv.CSVWriter
        try:
            return self._open.enter_context(make(str(self._path), schema))
        except pa.ArrowException as error:
            raise RequestError(f"{self._path.name} cannot hold these columns: {error}") from error

    def _lines(self, rows: pa.Table) -> None:
        import orjson

        self._writer = self._writer or self._open.enter_context(self._path.open("wb"))
        self._writer.writelines(
            orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE)
            for row in rows.to_pylist()
        )
