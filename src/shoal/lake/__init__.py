"""Delta tables by name: *a table is a version of files*.

A `Lake` is a root folder; `Lake.table` gives a `Table` at ``<root>/<schema>/<table>``. Files get
into a table in two steps: any engine writes Parquet into a staging folder inside the table, then
`Table.commit` makes one Delta transaction of them that also carries the writer's `Progress`. Rows
and progress land together or not at all.
"""

from shoal.lake.changes import AddedFile, Changes
from shoal.lake.lake import Lake
from shoal.lake.names import TableName
from shoal.lake.progress import Progress
from shoal.lake.staging import NULL_PARTITION, Staged, delta_schema, staged_files
from shoal.lake.table import Table

__all__ = [
    "NULL_PARTITION",
    "AddedFile",
    "Changes",
    "Lake",
    "Progress",
    "Staged",
    "Table",
    "TableName",
    "delta_schema",
    "staged_files",
]
