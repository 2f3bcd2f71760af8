"""Tables between the lake and plain functions: types that Delta cannot hold are refused by name."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shoal.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["arrow_table", "pandas_frame", "write_arrow", "write_pandas", "write_polars"]

_COMPRESSION: Final = "lz4"  # read once, at once: speed counts


def arrow_table(frame: pl.LazyFrame) -> pa.Table:
    """The rows as an Arrow table of plain types: ``string``, ``list``, microseconds in UTC."""
    import pyarrow as pa

    table = frame.collect(engine="streaming").to_arrow()
    plain = pa.schema([pa.field(f.name, _arrow_type(f.type, f.name)) for f in table.schema])
    try:
        return table.cast(plain)
    except pa.ArrowInvalid:  # more than 2 GB of text in one piece
        return table


def pandas_frame(table: pa.Table) -> pd.DataFrame:
    """The rows as a pandas DataFrame; nothing is rounded for the sake of a null."""
    import pandas as pd
    import pyarrow as pa

    nullable: dict[Any, Any] = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    columns = {
        name: column.to_pandas(
            types_mapper=nullable.get if column.null_count else None, integer_object_nulls=True
        )
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pd.DataFrame(columns, copy=False)


def write_polars(result: object, path: Path) -> None:
    """Writes a LazyFrame or DataFrame as one Parquet file, in bounded memory where it is lazy.

    Raises:
        PipelineError: It is neither, or a column has a type that no table can hold.
    """
    import polars as pl

    if isinstance(result, pl.DataFrame):
        result = result.lazy()
    if not isinstance(result, pl.LazyFrame):
        raise _no_table(result, "a Polars LazyFrame or DataFrame")
    schema = result.collect_schema()
    _check_names(schema.names())
    casts = [
        pl.col(name).cast(wanted)
        for name, found in schema.items()
        if (wanted := _polars_type(found, name)) != found
    ]
    result.with_columns(casts).sink_parquet(path, compression=_COMPRESSION)


def write_pandas(result: object, path: Path, inputs: Sequence[pa.Table] = ()) -> None:
    """Writes a pandas DataFrame as one Parquet file.

    Args:
        result: What the function gave.
        path: The file to make.
        inputs: What it got: Python's decimals go back to the type that the column had there, and
            otherwise become ``DECIMAL(38, 18)``, as in Spark.

    Raises:
        PipelineError: It is none, or a column has a type that no table can hold.
    """
    import pandas as pd
    import pyarrow as pa

    if not isinstance(result, pd.DataFrame):
        raise _no_table(result, "a pandas DataFrame")
    table = _from_pandas(result)
    before = {field.name: field.type for given in inputs for field in given.schema}
    for index, field in enumerate(table.schema):
        if not pa.types.is_decimal(field.type):
            continue
        for kind in (before.get(field.name), pa.decimal128(38, 18)):
            if kind is not None and pa.types.is_decimal(kind):
                with contextlib.suppress(pa.ArrowInvalid):
                    table = table.set_column(index, field.name, table.column(index).cast(kind))
                    break
    write_arrow(table, path)


def write_arrow(result: object, path: Path) -> None:
    """Writes an Arrow table, batch or reader as one Parquet file.

    Raises:
        PipelineError: It is none of them, or a column has a type that no table can hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(result, pa.RecordBatch):
        result = pa.Table.from_batches([result])
    if not isinstance(result, pa.Table | pa.RecordBatchReader):
        raise _no_table(result, "a pyarrow Table or RecordBatchReader")
    _check_names(result.schema.names)
    schema = pa.schema([pa.field(f.name, _arrow_type(f.type, f.name)) for f in result.schema])
    pieces: Iterable[Any] = result if isinstance(result, pa.RecordBatchReader) else [result]
    with pq.ParquetWriter(path, schema, compression=_COMPRESSION) as writer:
        for piece in pieces:
            arrays = [
                _cast(piece.column(i), field.type, field.name) for i, field in enumerate(schema)
            ]
            writer.write_table(pa.table(arrays, schema=schema))


def _cast(column: Any, wanted: pa.DataType, name: str) -> Any:
    import pyarrow as pa

    try:
        # Nanoseconds are cut to the table's microseconds; nothing else may lose anything.
        return column.cast(wanted, safe=not pa.types.is_timestamp(wanted))
    except pa.ArrowException as error:
        raise PipelineError(
            f"the column '{name}' ({column.type}) does not fit into a table's {wanted}: {error}",
            hint="Cast it in the function.",
        ) from error


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    named = [name for name in frame.index.names if name is not None]
    if named or frame.index.nlevels > 1:
        raise PipelineError(
            f"the DataFrame has the index {', '.join(map(str, named)) or '(several levels)'}, "
            "which a table does not keep.",
            hint="Make it a column, or drop it: .reset_index() or .reset_index(drop=True)",
        )
    _check_names(list(frame.columns))
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        text = " ".join(str(part) for part in error.args)
        raise PipelineError(
            f"the DataFrame cannot become a table: {text}", hint="Give each column one type."
        ) from error
    return table.replace_schema_metadata(None)


def _no_table(result: object, wanted: str) -> PipelineError:
    found = type(result)
    return PipelineError(
        f"the function returned {found.__module__.partition('.')[0]}'s {found.__name__}; expected "
        f"{wanted}."
        if result is not None
        else f"the function returned nothing; expected {wanted}.",
        hint="End it with: return ...",
    )


def _check_names(names: list[Any]) -> None:
    if not names:
        raise PipelineError("the function's result has no columns.")
    for name in names:
        if not isinstance(name, str) or not name:
            raise PipelineError(
                f"a column of the function's result has the name {name!r}; expected text.",
                hint="Rename it.",
            )
    twice = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
    if twice:
        raise PipelineError(
            f"the function's result has the column '{twice[0]}' twice; upper and lower case do "
            "not tell columns apart.",
            hint="Rename one.",
        )


def _refused(kind: object, name: str) -> PipelineError:
    return PipelineError(
        f"the column '{name}' is of the type {kind}, which a Delta table does not have.",
        hint="Cast it in the function, for example a time to text or a duration to a number of "
        "seconds.",
    )


def _polars_type(kind: Any, name: str) -> Any:
    """The type as Delta has it; nested ones from the inside."""
    import polars as pl

    if isinstance(kind, pl.Datetime):
        return pl.Datetime("us", "UTC" if kind.time_zone else None)
    if isinstance(kind, pl.List | pl.Array):
        return pl.List(_polars_type(kind.inner, name))
    if isinstance(kind, pl.Struct):
        return pl.Struct([pl.Field(f.name, _polars_type(f.dtype, name)) for f in kind.fields])
    if isinstance(kind, pl.Categorical | pl.Enum | pl.Null):
        return pl.String()
    wider: dict[Any, Any] = {
        pl.UInt8: pl.Int16(),
        pl.UInt16: pl.Int32(),
        pl.UInt32: pl.Int64(),
        pl.UInt64: pl.Int64(),
    }
    if type(kind) in wider:
        return wider[type(kind)]
    fine = (pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Decimal, pl.Float32, pl.Float64)
    whole = (pl.Int8, pl.Int16, pl.Int32, pl.Int64)
    if not isinstance(kind, (*fine, *whole)) and type(kind).__name__ != "Map":  # Polars 2
        raise _refused(kind, name)
    return kind


def _arrow_type(kind: pa.DataType, name: str) -> pa.DataType:
    """The type as Delta has it; nested ones from the inside."""
    import pyarrow as pa

    is_ = pa.types
    if isinstance(kind, pa.ExtensionType):
        return _arrow_type(kind.storage_type, name)
    if is_.is_dictionary(kind) or is_.is_run_end_encoded(kind):
        return _arrow_type(kind.value_type, name)
    if is_.is_map(kind):
        return pa.map_(_arrow_type(kind.key_type, name), _arrow_type(kind.item_type, name))
    if is_.is_struct(kind):
        return pa.struct([pa.field(f.name, _arrow_type(f.type, name)) for f in kind])
    if is_.is_nested(kind) and not is_.is_union(kind):
        return pa.list_(_arrow_type(kind.value_type, name))
    if is_.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if is_.is_fixed_size_binary(kind):
        return pa.binary()
    return _flat_arrow_type(kind, name)


def _flat_arrow_type(kind: pa.DataType, name: str) -> pa.DataType:
    import pyarrow as pa

    renamed = {
        pa.null(): pa.string(),
        pa.large_string(): pa.string(),
        pa.string_view(): pa.string(),
        pa.large_binary(): pa.binary(),
        pa.binary_view(): pa.binary(),
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.int64(),
        pa.float16(): pa.float32(),
        pa.date64(): pa.date32(),
    }
    same = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()]
    same += [pa.bool_(), pa.string(), pa.binary(), pa.date32()]
    if kind in renamed:
        return renamed[kind]
    if kind not in same and not (pa.types.is_decimal(kind) and kind.precision <= 38):
        raise _refused(kind, name)
    return kind
