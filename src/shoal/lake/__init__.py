"""Delta tables by name: *a table is a version of files*.

A `Lake` is a root folder; `Lake.table` gives a `Table` at ``<root>/<schema>/<table>``. Files get
into a table in two steps: any engine writes Parquet into a staging folder inside the table, then
`Table.commit` makes one Delta transaction of them that also carries the writer's `Progress`. Rows
and progress land together or not at all.
"""

from shoal.lake.changes import AddedFile, Changes
from shoal.lake.checks import Finding, check
from shoal.lake.clone import Cloned, clone
from shoal.lake.diff import Change, Difference, diff, differing
from shoal.lake.disk import disk_error
from shoal.lake.feed import FEED, Feed, FeedCommit, feed_on, read_feed, record_changes
from shoal.lake.lake import Lake
from shoal.lake.log import commit_info, commit_infos, commits, last_writers
from shoal.lake.names import TableName
from shoal.lake.optimize import Optimized, optimize, small_files
from shoal.lake.progress import Progress, files_read
from shoal.lake.protocol import Constraint
from shoal.lake.restore import Restored, flows, restore, version_asked, version_at
from shoal.lake.rowgroups import row_groups
from shoal.lake.snapshots import (
    SNAPSHOTS,
    Snapshot,
    Snapshots,
    pinned_version,
    split_pin,
)
from shoal.lake.staging import NULL_PARTITION, Staged, delta_schema, staged_files
from shoal.lake.summary import (
    ColumnSummary,
    FileSummary,
    Summary,
    file_layout,
    newest,
    summarise,
)
from shoal.lake.table import Table
from shoal.lake.vacuum import Guard, Kept, Vacuumed, abandoned, vacuum

__all__ = [
    "FEED",
    "NULL_PARTITION",
    "SNAPSHOTS",
    "AddedFile",
    "Change",
    "Changes",
    "Cloned",
    "ColumnSummary",
    "Constraint",
    "Difference",
    "Feed",
    "FeedCommit",
    "FileSummary",
    "Finding",
    "Guard",
    "Kept",
    "Lake",
    "Optimized",
    "Progress",
    "Restored",
    "Snapshot",
    "Snapshots",
    "Staged",
    "Summary",
    "Table",
    "TableName",
    "Vacuumed",
    "abandoned",
    "check",
    "clone",
    "commit_info",
    "commit_infos",
    "commits",
    "delta_schema",
    "diff",
    "differing",
    "disk_error",
    "feed_on",
    "file_layout",
    "files_read",
    "flows",
    "last_writers",
    "newest",
    "optimize",
    "pinned_version",
    "read_feed",
    "record_changes",
    "restore",
    "row_groups",
    "small_files",
    "split_pin",
    "staged_files",
    "summarise",
    "vacuum",
    "version_asked",
    "version_at",
]
