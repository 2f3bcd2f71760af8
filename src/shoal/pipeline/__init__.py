"""Declared tables become a graph: *a pipeline turns versions into versions*.

Sources written for the open Spark Declarative Pipelines API are registered through pyspark's own
extension point. What each flow reads is taken from its plan; a refresh pins every input to one
version, lets the engine write Parquet files, and commits them with the flow's progress.
"""

from shoal.pipeline.asof import asof_join
from shoal.pipeline.choose import chosen
from shoal.pipeline.continuous import rounds, trigger_seconds
from shoal.pipeline.decide import decide
from shoal.pipeline.definitions import Cdc, Dataset, Flow, Kind, LocalFunction
from shoal.pipeline.expectations import (
    Expectation,
    expect,
    expect_all,
    expect_all_or_drop,
    expect_all_or_fail,
    expect_or_drop,
    expect_or_fail,
)
from shoal.pipeline.graph import Graph, analyse
from shoal.pipeline.journal import EVENTS, EXPECTATIONS
from shoal.pipeline.lineage import LINEAGE, Edge, lineage_edges, stored_edges
from shoal.pipeline.load import declaring, load_sources, project_folder, run_source
from shoal.pipeline.local import arrow, pandas, polars, stream
from shoal.pipeline.outcome import ExpectationCount, Refresh, Status
from shoal.pipeline.predict import FoundModel, finding_models, predict
from shoal.pipeline.rlang import r
from shoal.pipeline.run import RunOptions, plan_run, run_graph
from shoal.pipeline.work import Decision

__all__ = [
    "EVENTS",
    "EXPECTATIONS",
    "LINEAGE",
    "Cdc",
    "Dataset",
    "Decision",
    "Edge",
    "Expectation",
    "ExpectationCount",
    "Flow",
    "FoundModel",
    "Graph",
    "Kind",
    "LocalFunction",
    "Refresh",
    "RunOptions",
    "Status",
    "analyse",
    "arrow",
    "asof_join",
    "chosen",
    "decide",
    "declaring",
    "expect",
    "expect_all",
    "expect_all_or_drop",
    "expect_all_or_fail",
    "expect_or_drop",
    "expect_or_fail",
    "finding_models",
    "lineage_edges",
    "load_sources",
    "pandas",
    "plan_run",
    "polars",
    "predict",
    "project_folder",
    "r",
    "rounds",
    "run_graph",
    "run_source",
    "stored_edges",
    "stream",
    "trigger_seconds",
]
