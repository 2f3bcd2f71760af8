"""A run around a person's own code, which logs into it with MLflow's functions."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from shoal.tracking.context import RunContext
from shoal.tracking.quiet import quietly
from shoal.tracking.record import KEPT

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Keep", "script_run"]

Keep: TypeAlias = Callable[[Mapping[str, bytes]], None]


@contextlib.contextmanager
def script_run(
    client: MlflowClient, uri: str, experiment_id: str, name: str, context: RunContext
) -> Iterator[tuple[str, Keep]]:
    """A run that is MLflow's active one while open; an error makes it FAILED.

    Args:
        client: A client of the tracking server.
        uri: Its URI, which is MLflow's while the run is open.
        experiment_id: Where the run belongs.
        name: Its name.
        context: Its code, environment and user.

    Yields:
        The run's id, and what keeps more documents with its code.
    """
    import mlflow
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    def keep(files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory(prefix="shoal-code-") as folder:
            for file, content in files.items():
                (Path(folder) / file).write_bytes(content)
            client.log_artifacts(run.info.run_id, folder, KEPT)

    tags = {
        "mlflow.user": context.user,
        "shoal.kind": "script",
        "shoal.project": context.project,
        "shoal.code_commit": context.code_commit or "",
        "shoal.code_dirty": str(context.code_dirty).lower(),
    }
    # Not the lock of single calls: a training inside needs that one.
    with _use_tracking_uri(uri):
        with quietly(f"begin the run '{name}'"):
            run = mlflow.start_run(run_name=name, experiment_id=experiment_id, tags=tags)
            keep(context.files)
        with run:
            yield run.info.run_id, keep
