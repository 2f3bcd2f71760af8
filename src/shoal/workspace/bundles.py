"""Bundles of a project's models, with sample rows from the table that they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import TableError

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.deploy import Bundle
    from shoal.tracking import ModelVersion
    from shoal.workspace.opened import Opened

__all__ = ["bundle_model"]

_SEGMENTS, _ROWS = 50, 4


def bundle_model(
    space: Opened,
    ref: str,
    out: Path,
    *,
    base: str | None = None,
    server: dict[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Bundle:
    """Makes the bundle of a registered version; see `shoal.deploy.make_bundle`.

    Its sample requests are rows of up to 50 segments, read from the training table at the version
    that the model saw; where that table is gone, they are the version's input example.

    Raises:
        DeployError: The registered artifact was changed, or its server answers differently.
        TrackingError: There is no such version.
    """
    import shoal
    from shoal.deploy import make_bundle

    version = space.tracker.resolve(ref)
    pinned = f"{version.name}/{version.version}"
    return make_bundle(
        space.tracker,
        pinned,
        out,
        rows=_rows(space, version, space.tracker.input_types(pinned)),
        locks=[space.project.root, Path(shoal.__path__[0])],
        base=base,
        server=server,
        trust_pickle=trust_pickle,
    )


def _rows(space: Opened, version: ModelVersion, inputs: Mapping[str, str]) -> pa.Table | None:
    """Rows of some segments, the same each time; None where the table is not to be had."""
    import polars as pl

    from shoal.models.artifact import read_header

    folder = space.tracker.fleet_folder(version)
    header = read_header(folder)
    table = space.lake.table(header.table)
    try:
        if table.id() != version.tags.get("shoal.table_id", table.id()):
            return None  # another table of that name
        frame = table.scan(header.table_version, list(inputs))
        if header.by:
            members = pl.read_ipc(folder / "members.arrow", columns=["segment", "level"])
            segments = members.filter(pl.col("level") == 0)["segment"].to_list()
            keys = [json.loads(key) for key in segments]
            step = max(len(keys) // _SEGMENTS, 1)
            columns = zip(*keys[::step], strict=True)
            chosen = pl.LazyFrame(dict(zip(header.by, map(list, columns), strict=True)))
            texts = [pl.col(name).cast(pl.String) for name in header.by]
            rows = frame.join(chosen, left_on=texts, right_on=list(header.by), how="semi")
            rows = rows.group_by(header.by, maintain_order=True).head(_ROWS)
        else:
            rows = frame.head(_SEGMENTS * _ROWS)
        found = rows.select(list(inputs)).sort(list(inputs), nulls_last=True).collect()
    except (TableError, pl.exceptions.PolarsError):
        return None
    return _typed(found.to_arrow(), inputs) if len(found) else None


def _typed(rows: pa.Table, inputs: Mapping[str, str]) -> pa.Table:
    """The rows in the types of the signature."""
    import pyarrow as pa

    from shoal.models.segments import key_texts

    kinds = {
        "long": pa.int64(),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us"),
    }
    columns = {}
    for name, kind in inputs.items():
        column = rows.column(name)
        if kind == "string":
            if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
                column = column.cast(pa.string())
            columns[name] = key_texts(column)
        else:
            columns[name] = column.cast(kinds[kind])
    return pa.table(columns)
