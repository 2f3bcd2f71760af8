"""The run of a training whose own code logs: ``mlflow.log_*`` inside a model's function.

Such a run is open before the first fit, as MLflow's active one here and, by MLflow's environment
variables, in the processes that fit. All other trainings make their run when they are done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from shoal.tracking.quiet import quietly

if TYPE_CHECKING:
    from shoal.tracking.tracker import Tracker

__all__ = ["logs_itself", "open_run"]


def logs_itself(function: Callable[..., Any]) -> bool:
    """Whether a function, or the file that it is in, names MLflow."""
    code = getattr(function, "__code__", None)
    names = code.co_names if code is not None else ()
    known = getattr(function, "__globals__", {})
    return "mlflow" in names or getattr(known.get("mlflow"), "__name__", "") == "mlflow"


@contextlib.contextmanager
def open_run(tracker: Tracker, name: str) -> Iterator[str]:
    """A new run that MLflow's functions log into, here and in processes that are started inside.

    After an error or an interrupt it is FAILED; else whoever records the training ends it.

    Args:
        tracker: Where the run belongs.
        name: Its name until then.

    Yields:
        Its id.
    """
    import mlflow
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    with quietly(f"begin the run of '{name}'"):
        client = tracker._client
        experiment = tracker._experiment_id()
        run_id = client.create_run(experiment, run_name=name).info.run_id
    told = {"MLFLOW_RUN_ID": run_id, "MLFLOW_TRACKING_URI": tracker.uri}
    before = {key: os.environ.get(key) for key in told}
    try:
        with _use_tracking_uri(tracker.uri):
            os.environ.update(told)
            with quietly(f"open the run of '{name}'"):
                # By its id, whatever run is around; it is ended by whoever records the training.
                # An experiment that the caller has set would refuse it.
                state: Any = fluent
                chosen, state._active_experiment_id = state._active_experiment_id, experiment
                try:
                    mlflow.start_run(run_id=run_id, nested=True)
                finally:
                    state._active_experiment_id = chosen
            try:
                yield run_id
            finally:
                _leave(run_id)
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(run_id, status="FAILED")
        raise
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _leave(run_id: str) -> None:
    """Takes the run off MLflow's stack; it goes on until the training is recorded."""
    import mlflow

    active = mlflow.active_run()
    if active is not None and active.info.run_id == run_id:
        mlflow.end_run("RUNNING")
