"""Spark Connect sessions, and the reading and rewriting of their plans.

*A DataFrame is a plan, and a plan is data.* An engine is any Spark Connect endpoint: Sail in this
process by default. What a user's query reads is found in its unresolved plan without running it,
and each read can be replaced: by one version of a Delta table, or by just the new files.
"""

from shoal.engines.files import InputFile, read_files
from shoal.engines.plan import (
    FileRead,
    Read,
    TableRead,
    dataframe,
    fingerprint,
    plan_of,
    query_plan,
    reads,
    rewrite,
    version_relation,
)
from shoal.engines.session import Engine, connect
from shoal.engines.sql import SqlTable, parse_sql, sql_tables
from shoal.engines.streaming import stateful_operator

__all__ = [
    "Engine",
    "FileRead",
    "InputFile",
    "Read",
    "SqlTable",
    "TableRead",
    "connect",
    "dataframe",
    "fingerprint",
    "parse_sql",
    "plan_of",
    "query_plan",
    "read_files",
    "reads",
    "rewrite",
    "sql_tables",
    "stateful_operator",
    "version_relation",
]
