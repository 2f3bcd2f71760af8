"""Files that hold their own schema (Parquet, ORC, Avro), and files taken whole (binaryFile)."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.engines.layout import FileInfo, Layout, Parsed
from shoal.errors import PipelineError
from shoal.store import is_url, open_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BINARY_FILE", "conform", "file_schema", "read_container", "read_whole"]

BINARY_FILE = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
_ROWS = 10_000
_LOGICAL = {
    "timestamp-millis": ("ms", "UTC"),
    "timestamp-micros": ("us", "UTC"),
    "local-timestamp-millis": ("ms", None),
    "local-timestamp-micros": ("us", None),
}


def file_schema(kind: str, path: str) -> pa.Schema:
    """The columns that a Parquet, ORC or Avro file says it has, with plain types.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file.
    """
    import pyarrow as pa

    if kind == "parquet":
        import pyarrow.parquet as pq

        with open_file(path) as stream:
            found = pq.read_schema(stream)
    elif kind == "orc":
        from pyarrow import orc

        with open_file(path) as stream:
            found = orc.ORCFile(stream).schema
    else:
        fastavro = _fastavro()
        with open_file(path) as stream:
            found = _avro_columns(fastavro.reader(stream).writer_schema)
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in found])


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type that Spark has, for one that it has not: unsigned, large, dictionary, other units."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in fields])
    if is_.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if is_.is_dictionary(kind):
        return _plain(kind.value_type)
    if is_.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_fixed_size_binary(kind):
        return pa.binary()
    plain = {
        pa.large_string(): pa.string(),
        pa.string_view(): pa.string(),
        pa.large_binary(): pa.binary(),
        pa.binary_view(): pa.binary(),
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.decimal128(20, 0),
        pa.float16(): pa.float32(),
        pa.date64(): pa.date32(),
        pa.time32("s"): pa.int32(),
        pa.time32("ms"): pa.int32(),
        pa.time64("us"): pa.int64(),
        pa.time64("ns"): pa.int64(),
    }
    return plain.get(kind, kind)


def read_container(kind: str, path: str, layout: Layout) -> Iterator[Parsed]:
    """The rows of one file in blocks, as the layout's columns.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file, or a column has another type and none is there to rescue it.
    """
    for batch in _batches(kind, path):
        yield conform(batch, layout)


def _batches(kind: str, path: str) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if kind == "parquet":
        import pyarrow.parquet as pq

        with open_file(path) as stream, pq.ParquetFile(stream) as file:
            yield from file.iter_batches(use_threads=False)
    elif kind == "orc":
        from pyarrow import orc

        with open_file(path) as stream:
            found = orc.ORCFile(stream)
            for stripe in range(found.nstripes):
                yield found.read_stripe(stripe)
    else:
        fastavro = _fastavro()
        with open_file(path) as stream:
            reader = fastavro.reader(stream)
            schema = _avro_columns(reader.writer_schema)
            read = [_avro_value(field.type) for field in schema]
            rows: list[Any] = []
            for record in reader:
                rows.append(record)
                if len(rows) == _ROWS:
                    yield _avro_batch(rows, schema, read)
                    rows = []
            if rows:
                yield _avro_batch(rows, schema, read)
            if not schema.names:
                yield pa.RecordBatch.from_arrays([], [])


def conform(batch: pa.RecordBatch, layout: Layout) -> Parsed:
    """A batch's columns as the layout has them.

    Raises:
        ValueError: A column has a type that does not fit, and there is no rescue column.
    """
    import pyarrow as pa

    parsed = Parsed(rows=batch.num_rows, columns={})
    exact = layout.rescued is not None
    wanted = {name if exact else name.lower(): name for name in layout.data}
    for given, column in zip(batch.schema.names, batch.columns, strict=True):
        name = wanted.get(given if exact else given.lower())
        if name is not None:
            kind = layout.types[name]
            fitting = _fitted(column, kind)
            if fitting is not None:
                parsed.columns[name] = fitting
                continue
            if not exact:
                raise ValueError(f"column '{given}' is {column.type}, and {kind} is expected")
        if exact:
            into = parsed.extra if name is None else parsed.misfits
            for row, value in enumerate(column.cast(_plain(column.type)).to_pylist()):
                if value is not None:
                    into.setdefault(row, {})[given] = value
    assert isinstance(batch, pa.RecordBatch)
    return parsed


def _fitted(column: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """A column as another type where no value changes by it."""
    import pyarrow as pa

    if column.type == kind:
        return column
    plain = _plain(column.type)
    numbers = pa.types.is_integer(plain) and (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
    wider = pa.types.is_floating(plain) and pa.types.is_float64(kind)
    decimals = pa.types.is_decimal(plain) and pa.types.is_decimal(kind)
    same = plain.id == kind.id
    if not (numbers or wider or decimals or same or pa.types.is_null(plain)):
        return None
    # Delta and Spark count in microseconds: what is finer is cut off, as Spark does.
    cut = pa.types.is_timestamp(plain)
    try:
        return column.cast(plain, safe=not cut).cast(kind)
    except (pa.ArrowException, NotImplementedError):
        return None


def read_whole(file: FileInfo) -> Parsed:
    """One file as one row: path, modification time, length and content."""
    import pyarrow as pa

    with open_file(file.path) as stream:
        content = stream.read()
    return Parsed(
        rows=1,
        columns={
            "path": pa.array([file.path if is_url(file.path) else f"file:{file.path}"]),
            "modificationTime": pa.array([file.modified], pa.timestamp("us", "UTC")),
            "length": pa.array([len(content)], pa.int64()),
            "content": pa.array([content], pa.binary()),
        },
    )


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError as error:
        raise PipelineError(
            "Avro files need fastavro, which is not installed.", hint="pip install 'shoal[avro]'"
        ) from error
    return fastavro


def _avro_columns(schema: Any) -> pa.Schema:
    import pyarrow as pa

    names: dict[str, Any] = {}
    kind = _avro_type(schema, names)
    if not pa.types.is_struct(kind):
        return pa.schema([pa.field("value", kind)])
    return pa.schema([kind.field(index) for index in range(kind.num_fields)])


def _avro_type(schema: Any, names: dict[str, Any]) -> pa.DataType:
    """The Arrow type of an Avro schema. Source: Avro specification; Spark, "Apache Avro"."""
    if isinstance(schema, list):
        return _avro_union([_avro_type(s, names) for s in schema if s != "null"])
    if isinstance(schema, str):
        schema = {"type": schema}
    kind, logical = schema["type"], schema.get("logicalType")
    if isinstance(kind, (dict, list)):
        return _avro_type(kind, names)
    if kind in names:
        return names[kind]
    found = _avro_named(schema, kind, logical, names)
    if "name" in schema:
        space = schema.get("namespace")
        names[schema["name"]] = found
        if space:
            names[f"{space}.{schema['name']}"] = found
    return found


def _avro_named(schema: Any, kind: str, logical: str | None, names: dict[str, Any]) -> pa.DataType:
    import pyarrow as pa

    if kind in {"record", "error"}:
        fields = [pa.field(f["name"], _avro_type(f["type"], names)) for f in schema["fields"]]
        return pa.struct(fields)
    if kind == "array":
        return pa.list_(_avro_type(schema["items"], names))
    if kind == "map":
        return pa.map_(pa.string(), _avro_type(schema["values"], names))
    if logical == "decimal" and schema["precision"] <= 38:
        return pa.decimal128(schema["precision"], schema.get("scale", 0))
    if logical == "date":
        return pa.date32()
    if logical in _LOGICAL:
        return pa.timestamp("us", _LOGICAL[logical][1])
    atoms = {
        "null": pa.null(),
        "boolean": pa.bool_(),
        "int": pa.int32(),
        "long": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "bytes": pa.binary(),
        "fixed": pa.binary(),
        "string": pa.string(),
        "enum": pa.string(),
    }
    if kind not in atoms:
        raise ValueError(f"Avro type '{kind}' is not known")
    return atoms[kind]


def _avro_union(kinds: Sequence[pa.DataType]) -> pa.DataType:
    import pyarrow as pa

    if not kinds:
        return pa.null()
    if len(kinds) == 1:
        return kinds[0]
    if set(kinds) == {pa.int32(), pa.int64()}:
        return pa.int64()
    if set(kinds) == {pa.float32(), pa.float64()}:
        return pa.float64()
    return pa.struct([pa.field(f"member{i}", kind) for i, kind in enumerate(kinds)])


def _avro_batch(
    rows: Sequence[Any], schema: pa.Schema, read: Sequence[Callable[[Any], Any]]
) -> pa.RecordBatch:
    import pyarrow as pa

    columns = []
    for field, value in zip(schema, read, strict=True):
        given = [value(row[field.name] if isinstance(row, Mapping) else row) for row in rows]
        columns.append(pa.array(given, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _avro_value(kind: pa.DataType) -> Callable[[Any], Any]:
    """A function from what fastavro decodes to what an Arrow array of the type takes."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        readers = {field.name: _avro_value(field.type) for field in fields}
        kinds = {field.name: field.type for field in fields}
        return lambda value: _avro_struct(value, readers, kinds)
    if pa.types.is_map(kind):
        item = _avro_value(kind.item_type)
        return lambda v: None if v is None else [(key, item(inner)) for key, inner in v.items()]
    if pa.types.is_list(kind):
        element = _avro_value(kind.value_type)
        return lambda v: None if v is None else [element(inner) for inner in v]
    return _avro_atom


def _avro_atom(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dt.time):  # as in Spark: the number that is stored
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + (
            value.microsecond // 1000
        )
    return value


def _avro_struct(
    value: Any, readers: Mapping[str, Callable[[Any], Any]], kinds: Mapping[str, pa.DataType]
) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping) and not ("member0" in kinds and "member0" not in value):
        return {name: read(value[name]) for name, read in readers.items()}
    for name, kind in kinds.items():  # a union: the first member that the value is one of
        if _is_a(value, kind):
            return {name: readers[name](value)}
    return None


def _is_a(value: Any, kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests: list[tuple[Callable[[Any], bool], Any]] = [
        (pa.types.is_boolean, bool),
        (pa.types.is_integer, int),
        (pa.types.is_floating, float),
        (pa.types.is_string, (str, uuid.UUID)),
        (pa.types.is_binary, bytes),
        (pa.types.is_decimal, decimal.Decimal),
        (pa.types.is_date, dt.date),
        (pa.types.is_timestamp, dt.datetime),
        (pa.types.is_list, list),
        (pa.types.is_map, dict),
        (pa.types.is_struct, dict),
    ]
    for test, types in tests:
        if test(kind):
            return isinstance(value, types) and (types is not int or not isinstance(value, bool))
    return False
