"""The run of a training whose own code logs, on an engine's workers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from shoal.errors import TrainingError

__all__ = ["joined", "open_run"]

# By these two MLflow's functions find the run that is open: the one that trains has set them.
_RUN, _SERVER = "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"


def open_run() -> dict[str, str]:
    """The variables of the run that is open here; none where the model's code does not log."""
    return {name: os.environ[name] for name in (_RUN, _SERVER) if _RUN in os.environ}


@contextlib.contextmanager
def joined(told: Mapping[str, str]) -> Iterator[None]:
    """``mlflow.log_*`` inside lands in the run that the driver opened.

    Args:
        told: What `open_run` gave there.

    Raises:
        TrainingError: The run is in a database file, and this machine does not have it.
    """
    if not told:
        yield
        return
    file = told[_SERVER].removeprefix("sqlite:///").partition("?")[0]
    if file != told[_SERVER] and not Path(file).exists():
        raise TrainingError(
            f"The model's code logs to MLflow, whose database {file} an engine's worker lacks.",
            hint='tracking = "http://..." in shoal.toml, of a server that the workers reach',
        )
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        # An engine keeps its threads, and MLflow would take the next training's for this run.
        mlflow = sys.modules.get("mlflow")
        run = None if mlflow is None else mlflow.active_run()
        if mlflow is not None and run is not None and run.info.run_id == told[_RUN]:
            mlflow.end_run("RUNNING")
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
