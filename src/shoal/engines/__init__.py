"""Spark Connect sessions, and the reading and rewriting of their plans.

*A DataFrame is a plan, and a plan is data.* An engine is any Spark Connect endpoint: Sail in this
process by default. What a user's query reads is found in its unresolved plan without running it,
and each read can be replaced: by one version of a Delta table, or by just the new files.
"""

from shoal.engines.algebra import Algebra, Grouping, marks, put
from shoal.engines.columns import ColumnSources, Origin, leaf, trace
from shoal.engines.fileoptions import byte_count, check_options, loader_option
from shoal.engines.files import read_files, reads_here, with_metadata
from shoal.engines.fileschema import FileSchema, resolve_schema
from shoal.engines.functions import describe
from shoal.engines.linear import MARK, Shape
from shoal.engines.listed import InputFile
from shoal.engines.outline import outline
from shoal.engines.plan import (
    ExecutionRefused,
    FileRead,
    KafkaRead,
    Read,
    TableRead,
    dataframe,
    fingerprint,
    functions_of,
    input_plan,
    plan_of,
    query_plan,
    reads,
    rewrite,
    version_relation,
)
from shoal.engines.session import Engine, connect, engine_path
from shoal.engines.sparkhome import SparkHome, java, make_spark_home
from shoal.engines.sql import SqlTable, parse_sql, sql_tables
from shoal.engines.streaming import stateful_operator

__all__ = [
    "MARK",
    "Algebra",
    "ColumnSources",
    "Engine",
    "ExecutionRefused",
    "FileRead",
    "FileSchema",
    "Grouping",
    "InputFile",
    "KafkaRead",
    "Origin",
    "Read",
    "Shape",
    "SparkHome",
    "SqlTable",
    "TableRead",
    "byte_count",
    "check_options",
    "connect",
    "dataframe",
    "describe",
    "engine_path",
    "fingerprint",
    "functions_of",
    "input_plan",
    "java",
    "leaf",
    "loader_option",
    "make_spark_home",
    "marks",
    "outline",
    "parse_sql",
    "plan_of",
    "put",
    "query_plan",
    "read_files",
    "reads",
    "reads_here",
    "resolve_schema",
    "rewrite",
    "sql_tables",
    "stateful_operator",
    "trace",
    "version_relation",
    "with_metadata",
]
