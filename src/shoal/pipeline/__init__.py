"""Declared tables become a graph: *a pipeline turns versions into versions*.

Sources written for the open Spark Declarative Pipelines API are registered through pyspark's own
extension point. What each flow reads is taken from its plan; a refresh pins every input to one
version, lets the engine write Parquet files, and commits them with the flow's progress.
"""

from shoal.pipeline.decide import Decision, decide
from shoal.pipeline.definitions import Dataset, Flow, Kind
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
from shoal.pipeline.load import load_sources, project_folder, run_source
from shoal.pipeline.refresh import ExpectationCount, Refresh, Status
from shoal.pipeline.run import EXPECTATIONS, RunOptions, plan_run, run_graph

__all__ = [
    "EXPECTATIONS",
    "Dataset",
    "Decision",
    "Expectation",
    "ExpectationCount",
    "Flow",
    "Graph",
    "Kind",
    "Refresh",
    "RunOptions",
    "Status",
    "analyse",
    "decide",
    "expect",
    "expect_all",
    "expect_all_or_drop",
    "expect_all_or_fail",
    "expect_or_drop",
    "expect_or_fail",
    "load_sources",
    "plan_run",
    "project_folder",
    "run_graph",
    "run_source",
]
