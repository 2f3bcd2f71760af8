"""Runs of plain scripts, tracked so that they can be reproduced: ``with shoal.start_run():``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import TrackingError

if TYPE_CHECKING:
    import polars as pl

    from shoal.workspace.workspace import Workspace

__all__ = ["AGAIN", "ScriptRun", "start_run"]

# Set while a script is run again: which tables' versions to read, and where everything is.
AGAIN = "SHOAL_AGAIN"


class ScriptRun:
    """A script's run in MLflow.

    Args:
        space: The project.
        run_id: MLflow's id.
        pins: Versions to read, where the script is run again.

    Attributes:
        run_id: MLflow's id.
        tables: The tables that were read, with their versions.
    """

    def __init__(self, space: Workspace, run_id: str, pins: dict[str, int]) -> None:
        self.run_id = run_id
        self.tables: dict[str, int] = {}
        self._space = space
        self._pins = pins

    def table(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """A table's rows, at a version that the run remembers.

        Args:
            name: The table, such as ``gold.sales``.
            version: Its version; the newest by default, and in a reproduction the recorded one.

        Raises:
            TableNotFound: There is no such table.
            TrackingError: The run has read another version of it.
        """
        table = self._space.lake.existing(name)
        key = str(table.name)
        wanted = self._pins.get(key, version)
        known = self.tables.get(key, wanted)
        if wanted is not None and known != wanted:
            raise TrackingError(f"The run has read version {known} of {key}, not {wanted}.")
        pinned = table.version() if known is None else known
        self.tables[key] = pinned
        return table.scan(pinned)


@contextlib.contextmanager
def start_run(
    name: str | None = None, *, folder: str | Path | None = None, profile: str | None = None
) -> Iterator[ScriptRun]:
    """Track what a script does, with its code, packages and the versions of the tables it reads.

    Inside, MLflow's own functions write to the same run::

        with shoal.start_run("explore") as run:
            sales = run.table("gold.sales").collect()
            mlflow.log_metric("mean", sales["y"].mean())

    ``shoal reproduce RUN_ID`` runs the script again, on those versions, and compares what it
    logged.

    Args:
        name: The run's name; the script's file by default.
        folder: The project's folder; the current one by default, searching upward.
        profile: The profile to use.

    Raises:
        ProjectError: There is no project.
        TrackingError: The tracking server refuses the run.
    """
    from shoal.project import Project, find_project
    from shoal.tracking import Tracker, run_context
    from shoal.workspace.workspace import Workspace

    again: dict[str, Any] = json.loads(os.environ.get(AGAIN, "{}"))
    project = find_project(None if folder is None else Path(folder), profile=profile)
    if again:
        there = replace(project.profile, storage=again["storage"])
        project = Project(root=project.root, spec=project.spec, profile=there)
    script = Path(sys.argv[0]).absolute() if sys.argv and sys.argv[0] else None
    inside = script is not None and script.is_file() and script.is_relative_to(project.root)
    with Workspace(project) as space:
        tracker = space.tracker
        if again:
            tracker = Tracker(again["tracking"], None, project.name)
        context = run_context(project.root, project=project.name)
        shown = name or (script.name if script is not None else "script")
        with tracker.script_run(shown, context) as (run_id, keep):
            run = ScriptRun(space, run_id, again.get("pins", {}))
            try:
                yield run
            finally:
                said = {
                    "script": str(script.relative_to(project.root)) if inside and script else None,
                    "arguments": sys.argv[1:],
                    "tables": run.tables,
                }
                keep({"script.json": json.dumps(said, indent=1).encode()})
