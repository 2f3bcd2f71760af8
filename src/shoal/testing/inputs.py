"""Rows that a test gives, as Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Lake, TableName
    from shoal.pipeline import Dataset
    from shoal.testing.result import Given

__all__ = ["put"]


def put(given: Mapping[str, Given], datasets: Mapping[TableName, Dataset], lake: Lake) -> None:
    """Appends rows to the tables that a test gives.

    Args:
        given: Rows by table name.
        datasets: What the sources declare; a declared schema gives the types.
        lake: The test's lake.

    Raises:
        PipelineError: The rows have no type, or not those of the declared schema.
        TableError: A name is no table name, or the rows do not fit those given before.
    """
    tables = {
        lake.table(name): _arrow(name, rows, datasets.get(lake.name(name)))
        for name, rows in given.items()
    }
    for table, rows in tables.items():
        known = table.schema() if table.exists() else None
        if rows.num_rows or known is None:
            table.append(rows)


def _arrow(name: str, rows: Given, dataset: Dataset | None) -> pa.Table:
    import pyarrow as pa

    declared = _declared(dataset)
    if isinstance(rows, Sequence):
        table = _of_dicts(name, rows, declared)
    elif hasattr(rows, "toArrow"):
        table = rows.toArrow()
    elif hasattr(rows, "iloc"):
        table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    elif hasattr(rows, "__arrow_c_stream__"):
        table = pa.table(rows)
    else:
        raise PipelineError(
            f"The rows of '{name}' are a {type(rows).__name__}; they can be a list of dicts, or a "
            "pandas, Polars, Arrow or Spark frame.",
            hint='For example: inputs={"bronze.flights": [{"id": 1}]}',
        )
    for field in table.schema:
        if pa.types.is_null(field.type):
            raise PipelineError(
                f"The column '{field.name}' of the rows of '{name}' is always null, so its type is "
                "not known.",
                hint="Give a typed frame, for example "
                f'session().createDataFrame(rows, "{field.name} STRING"), or declare the schema.',
            )
    return table


def _declared(dataset: Dataset | None) -> pa.Schema | None:
    """The columns that a declaration gives; names alone tell no types."""
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructType

    from shoal.testing.spark import session

    schema = dataset.schema if dataset is not None else None
    if isinstance(schema, str):
        if all(len(part.split()) == 1 for part in schema.split(",")):
            return None
        schema = session()._parse_ddl(schema)
    return to_arrow_schema(schema, timezone="UTC") if isinstance(schema, StructType) else None


def _of_dicts(name: str, rows: Sequence[Any], declared: pa.Schema | None) -> pa.Table:
    import pyarrow as pa

    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise PipelineError(
            f"A row of '{name}' is {wrong!r}; rows in a list are dicts.",
            hint='For example: [{"id": 1, "name": "a"}]',
        )
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    if declared is not None:
        extra = [column for column in names if column not in declared.names]
        if extra:
            raise PipelineError(
                f"The rows of '{name}' have a column '{extra[0]}'; the declared schema has "
                f"{', '.join(declared.names)}.",
            )
    elif not names:
        raise PipelineError(
            f"There are no rows of '{name}', so its columns are not known.",
            hint=f"Give an empty frame: session().createDataFrame([], \"id INT\") for '{name}'.",
        )
    try:
        if declared is not None:
            return pa.Table.from_pylist([dict(row) for row in rows], schema=declared)
        return pa.table({column: [row.get(column) for row in rows] for column in names})
    except (pa.ArrowException, TypeError) as error:
        raise PipelineError(
            f"The rows of '{name}' have values of different types: {error}",
            hint="Give each column values of one type.",
        ) from error
