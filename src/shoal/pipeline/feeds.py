"""Delta tables read with options: from a version on, past deletes, or as a change data feed.

The options are those of Delta's readers in Spark. A feed gives each row that was inserted, deleted
or updated once, with ``_change_type``, ``_commit_version`` and ``_commit_timestamp``.

Where a version replaced files without recording its changes (an overwrite, AUTO CDC, a full
refresh), Spark gives all rows that left and all that came. Here rows that did both cancel each
other out, and where the key of a row is known, a delete and an insert of one key are an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shoal.engines import TableRead, dataframe, plan_of, reads, version_relation
from shoal.errors import PipelineError, TableError, nearest
from shoal.lake import FEED, Feed, feed_on, read_feed, version_at
from shoal.pipeline.definitions import Kind
from shoal.pipeline.inputs import files_relation, united

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame
    from pyspark.sql.connect.proto import Plan, Relation
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

    from shoal.lake import FeedCommit, Lake, Table, TableName
    from shoal.pipeline.definitions import Dataset

__all__ = ["batch_feed", "check_reads", "feed_asked", "feed_columns", "feed_relation", "first"]

_CHANGES = ("readchangefeed", "readchangedata")
_BATCH = ("versionasof", "timestampasof", "endingversion", "endingtimestamp", "mergeschema")
_STREAM = (
    "ignoredeletes",
    "ignorechanges",
    "skipchangecommits",
    "maxfilespertrigger",
    "maxbytespertrigger",
    "failondataloss",
)
_BOTH = (*_CHANGES, "startingversion", "startingtimestamp")
_WRITTEN = (
    *("readChangeFeed", "readChangeData", "startingVersion", "startingTimestamp", "endingVersion"),
    *("endingTimestamp", "versionAsOf", "timestampAsOf", "ignoreDeletes", "ignoreChanges"),
    *("skipChangeCommits", "maxFilesPerTrigger", "maxBytesPerTrigger", "failOnDataLoss"),
)
_TYPE, _VERSION, _TIME = "_change_type", "_commit_version", "_commit_timestamp"


def feed_asked(read: TableRead) -> bool:
    """Whether a read asks for the table's changes."""
    return any(read.options.get(name, "").lower() == "true" for name in _CHANGES)


def feed_columns(columns: StructType) -> StructType:
    """A table's columns and those of its change data feed."""
    from pyspark.sql.types import StructType

    more = StructType().add(_TYPE, "string").add(_VERSION, "long").add(_TIME, "timestamp")
    return StructType([*columns.fields, *more.fields])


def check_reads(plan: Plan, datasets: Mapping[TableName, Dataset], lake: Lake) -> None:
    """Checks the options of the tables that a plan reads.

    Raises:
        PipelineError: An option is unknown, contradicts another, or asks for changes that the
            table does not record.
    """
    for read in reads(plan):
        if isinstance(read, TableRead) and read.options:
            _check_names(read)
        if isinstance(read, TableRead) and feed_asked(read):
            _check_feed(read, datasets, lake)


def _check_names(read: TableRead) -> None:
    known = (*_BOTH, *(_STREAM if read.streaming else _BATCH))
    unknown = [name for name in read.options if name not in known]
    if unknown:
        words = [word for word in _WRITTEN if word.lower() in known]
        close = nearest(unknown[0], [word.lower() for word in words])
        said = next((word for word in words if word.lower() == close), None)
        other = unknown[0] in (*_STREAM, *_BATCH)
        raise PipelineError(
            f"'{read.name}' is read {'as a stream' if read.streaming else 'as a whole'} with the "
            f"option '{unknown[0]}', which "
            + (f"is for {'batch' if read.streaming else 'streaming'} reads." if other else "")
            + ("" if other else "Delta tables do not have."),
            hint=f"Did you mean '{said}'?" if said else f"There are: {', '.join(words)}.",
        )
    given = set(read.options)
    for one, two in (
        ("startingversion", "startingtimestamp"),
        ("endingversion", "endingtimestamp"),
        ("versionasof", "timestampasof"),
    ):
        if {one, two} <= given:
            raise PipelineError(f"'{read.name}' is read with both {one} and {two}.")
    bounded = given & {"startingversion", "startingtimestamp", "endingversion", "endingtimestamp"}
    if not read.streaming and not feed_asked(read) and bounded:
        raise PipelineError(
            f"'{read.name}' is read as a whole with the option '{min(bounded)}'.",
            hint='Read its changes: .option("readChangeFeed", "true"), or one version: '
            '.option("versionAsOf", ...)',
        )
    if not read.streaming and feed_asked(read) and not given & {"startingversion", _BOTH[3]}:
        raise PipelineError(
            f"the changes of '{read.name}' are read as a whole without a first version.",
            hint='Add .option("startingVersion", 0), or read them with spark.readStream.',
        )


def _check_feed(read: TableRead, datasets: Mapping[TableName, Dataset], lake: Lake) -> None:
    name = lake.name(read.name)
    dataset, table = datasets.get(name), lake.table(name)
    if dataset is not None and dataset.kind is Kind.TEMPORARY_VIEW:
        raise PipelineError(
            f"'{name}' is a temporary view ({dataset.location}); only tables record changes.",
            hint="Read the changes inside the view.",
        )
    if dataset is None and (not table.exists() or feed_on(table)):
        return  # a name that is nowhere is told elsewhere
    if dataset is None:
        raise PipelineError(
            f"'{name}' records no changes ({FEED} is not set).",
            hint=f"ALTER TABLE {name} SET TBLPROPERTIES ('{FEED}' = 'true'), with the writer that "
            "made it; changes are recorded from then on.",
        )
    if dataset.properties.get(FEED, "").lower() != "true" and not (
        table.exists() and feed_on(table)
    ):
        raise PipelineError(
            f"'{name}' ({dataset.location}) records no changes.",
            hint=f'Declare it with table_properties={{"{FEED}": "true"}}, in SQL '
            f"TBLPROPERTIES ('{FEED}' = 'true'), then: shoal run",
        )


def first(read: TableRead, table: Table, version: int) -> int | None:
    """The version after which a stream that was never read begins; None: with all rows at first.

    Args:
        read: How it is read.
        table: The table.
        version: The pinned version.

    Raises:
        TableError: The table has no such version.
    """
    asked = read.options.get("startingversion")
    if asked is not None:
        return version if asked.lower() == "latest" else _whole(asked, table, version) - 1
    moment = read.options.get("startingtimestamp")
    return None if moment is None else _from_time(table, moment) - 1


def _whole(text: str, table: Table, version: int) -> int:
    if not text.isdigit() or int(text) > version:
        raise TableError(
            f"'{text}' is no version of {table.name}; the newest is {version}.",
            hint=f"shoal history {table.name}",
        )
    return int(text)


def _from_time(table: Table, moment: str) -> int:
    """The first version that is not older than a time."""
    try:
        before = version_at(table, moment)
    except TableError:
        if not moment.strip()[:1].isdigit():
            raise
        return 0  # all versions are younger, or the time does not parse
    (same,) = (e for e in table.history() if e["version"] == before)
    return before if _same(same["timestamp"], moment) else before + 1


def _same(stamp: int, moment: str) -> bool:
    import datetime as dt

    at = dt.datetime.fromisoformat(moment.strip())
    return stamp == (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp() * 1000


def batch_feed(read: TableRead, table: Table, version: int) -> Feed:
    """The changes that a batch read asks for, up to the pinned version.

    Raises:
        TableError: The table does not have, or did not record, such versions.
    """
    after = first(read, table, version)
    ending, until = read.options.get("endingversion"), version
    if ending is not None:
        until = min(_whole(ending, table, version), version)
    elif (moment := read.options.get("endingtimestamp")) is not None:
        until = min(version, version_at(table, moment))
    assert after is not None
    return read_feed(table, after=after, until=until)


def feed_relation(
    table: Table, version: int, feed: Feed, key: Sequence[str], spark: SparkSession
) -> Relation:
    """The rows of a change data feed.

    Args:
        table: The table.
        version: The pinned version, whose columns the rows have.
        feed: The changes.
        key: Columns that name a row; empty where they are not known.
        spark: The session.
    """
    from pyspark.sql.connect.proto import Plan
    from pyspark.sql.pandas.types import from_arrow_schema

    columns = from_arrow_schema(table.schema(version))

    def frame(relation: Relation) -> DataFrame:
        return dataframe(Plan(root=relation), spark)

    frames: list[DataFrame] = []
    if feed.start is not None:
        rows = frame(version_relation(table.path, feed.start[0]))
        frames.append(_marked(rows, "insert", *feed.start))
    for commit in feed.commits:
        at = commit.version, commit.moment
        if commit.recorded:
            files = files_relation(table, version, commit.recorded, spark, more={_TYPE: "string"})
            frames.append(_marked(frame(files), None, *at))
        elif commit.removed:
            frames.append(_marked(_net(table, version, commit, key, spark), None, *at))
        else:
            files = files_relation(table, version, commit.added, spark)
            frames.append(_marked(frame(files), "insert", *at))
    if not frames:
        return plan_of(spark.createDataFrame([], feed_columns(columns))).root
    return plan_of(united(frames)).root


def _marked(rows: DataFrame, kind: str | None, version: int, moment: object) -> DataFrame:
    from pyspark.sql import functions as F

    names = [F.col(f"`{name}`") for name in rows.columns if name != _TYPE]

    def plain(value: Column, name: str) -> Column:
        # Sail 0.7.2 loses columns when it folds a filter over a constant inside a union.
        return F.when(F.rand() < 2, value).alias(name)

    return rows.select(
        *names,
        F.col(_TYPE) if kind is None else plain(F.lit(kind), _TYPE),
        plain(F.lit(version).cast("bigint"), _VERSION),
        plain(F.lit(moment), _TIME),
    )


def _net(
    table: Table, version: int, commit: FeedCommit, key: Sequence[str], spark: SparkSession
) -> DataFrame:
    """What a version that replaced files changed: rows that only left or only came."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F
    from pyspark.sql.connect.proto import Plan

    def side(files: Sequence[object], sign: int) -> DataFrame:
        found = files_relation(table, version, files, spark)  # type: ignore[arg-type]
        rows = dataframe(Plan(root=found), spark)
        return rows.withColumn("__shoal_sign", F.when(F.rand() < 2, F.lit(sign)))

    both = united([side(commit.removed, -1), side(commit.added, 1)])
    names = [name for name in both.columns if name != "__shoal_sign"]
    columns = [F.col(f"`{name}`") for name in names]
    if not any("map<" in both.schema[name].dataType.simpleString() for name in names):
        both = both.groupBy(*columns).agg(F.sum("__shoal_sign").alias("__shoal_sign"))
        copies = F.expr("array_repeat(sign(__shoal_sign), cast(abs(__shoal_sign) as int))")
        both = both.filter(F.col("__shoal_sign") != 0).withColumn(
            "__shoal_sign", F.explode(copies).cast("int")
        )
    sign = F.col("__shoal_sign")
    known = {name.lower(): name for name in names}
    by = [F.col(f"`{known[name.lower()]}`") for name in key if name.lower() in known]
    kind = F.when(sign < 0, "delete").otherwise("insert")
    if key and len(by) == len(key):
        place = F.row_number().over(Window.partitionBy(*by, sign).orderBy(*by))
        both = both.withColumn("__shoal_place", place)
        pairs = F.count(F.lit(1)).over(Window.partitionBy(*by, F.col("__shoal_place")))
        both = both.withColumn("__shoal_pairs", pairs)
        update = F.when(sign < 0, "update_preimage").otherwise("update_postimage")
        kind = F.when(F.col("__shoal_pairs") == 2, update).otherwise(kind)
    return both.withColumn(_TYPE, kind).select(*columns, _TYPE)
