"""Finds the damaged Parquet file among a flow's inputs, after an engine failed on one unnamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal.errors import PipelineError
from shoal.store import open_file

if TYPE_CHECKING:
    from shoal.lake import Lake
    from shoal.pipeline.work import FlowWork

__all__ = ["damaged"]

# How engines tell that bytes are not what a Parquet footer promised.
_SIGNS = ("parquet", "range was invalid", "decompress", "corrupt")


def damaged(work: FlowWork, lake: Lake, error: Exception) -> PipelineError | None:
    """An error that names the Parquet file, where the engine's does not; None if it is about none.

    Args:
        work: What the flow read; each of its Parquet files is tried.
        lake: Where its input tables are.
        error: What the engine raised.
    """
    if not any(sign in str(error).lower() for sign in _SIGNS):
        return None
    for path in _paths(work, lake):
        if (reason := _unreadable(path)) is not None:
            return PipelineError(
                f"{path} is no whole Parquet file: {reason}",
                hint="Replace or remove it, then run again; the other files are read then.",
            )
    return None


def _paths(work: FlowWork, lake: Lake) -> Iterator[str]:
    for read, files in work.files.items():
        if read.format == "parquet":
            yield from (file.path for file in files)
    for name, given in work.tables.items():
        changes = given.changes or lake.table(name).changes(after=-1, until=given.version)
        gone = {file.path for file in changes.removed}
        yield from (file.path for file in changes.files if file.path not in gone)


def _unreadable(path: str) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_file(path) as stream, pq.ParquetFile(stream) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError) as error:
        return str(error).splitlines()[0]
    return None
