"""The MLflow signature of a fleet: what each request column may hold.

MLflow refuses ``int64`` data for a ``double`` column and missing values for a ``long`` column, so
a whole-number column is ``long`` when the training table had no missing value in it and ``double``
otherwise, as MLflow's own ``infer_signature`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shoal.errors import TableError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from mlflow.models import ModelSignature

    from shoal.models import FleetHeader, TrainedFleet

__all__ = ["input_example", "input_types", "model_signature"]


def input_types(trained: TrainedFleet) -> dict[str, str]:
    """MLflow's type name of each input column: string, long, double, boolean or datetime.

    Args:
        trained: Its input example gives the columns and their Arrow types; its table tells which
            whole-number columns have gaps.
    """
    import pyarrow as pa

    if trained.inputs is not None:
        return dict(trained.inputs)
    schema = trained.input_example.schema
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    gaps = _columns_with_gaps(trained, whole)
    keys = trained.declaration.by
    return {
        field.name: "double" if field.name in gaps else _type_name(field.type, field.name in keys)
        for field in schema
    }


def _type_name(kind: pa.DataType, is_key: bool) -> str:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "long"
    if pa.types.is_timestamp(kind) or (pa.types.is_date(kind) and not is_key):
        return "datetime"
    if pa.types.is_floating(kind) or not is_key:
        return "double"
    return "string"  # dates and decimals too: pandas holds them as objects


def _columns_with_gaps(trained: TrainedFleet, columns: list[str]) -> set[str]:
    """Which columns have missing values; all when the table cannot be read any more."""
    from shoal.lake import Table, TableName

    if not columns:
        return set()
    schema, _, name = trained.table.rpartition(".")
    table = Table(name=TableName(schema=schema, table=name), path=trained.table_path)
    try:
        counts = table.scan(trained.table_version, columns).null_count().collect()
    except TableError:
        return set(columns)
    return {column for column in columns if counts[column][0] > 0}


def input_example(trained: TrainedFleet) -> pd.DataFrame:
    """The input example with the types of the signature.

    MLflow writes it as JSON, which has no decimals, and takes no timestamps with a zone.
    """
    import pyarrow as pa

    from shoal.models.segments import key_texts

    rows = trained.input_example
    types = {"double": pa.float64(), "datetime": pa.timestamp("us")}
    columns = {}
    for name, kind in input_types(trained).items():
        column = rows.column(name)
        if kind == "string":
            columns[name] = key_texts(column)
        else:
            columns[name] = column.cast(types[kind]) if kind in types else column
    return pa.table(columns).to_pandas()


def model_signature(inputs: Mapping[str, str], header: FleetHeader) -> ModelSignature:
    """MLflow's signature: named input columns, one unnamed output, and what may be asked for.

    Args:
        inputs: Type name of each input column.
        header: Tells what is predicted: a number, or one of the classes.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    params = [] if header.interval is None else [ParamSpec("interval", "boolean", False)]
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name) for name, kind in inputs.items()]),
        outputs=Schema([ColSpec(_output_type(header))]),
        params=ParamSchema(params) if params else None,  # type: ignore[arg-type]
    )


def _output_type(header: FleetHeader) -> str:
    classes = header.classes
    if not classes:
        return "double"
    if all(isinstance(value, bool) for value in classes):
        return "boolean"
    if all(isinstance(value, int) for value in classes):
        return "long"
    return "string"
