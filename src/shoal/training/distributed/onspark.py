"""A group of PyTorch workers as the tasks of a barrier stage of Apache Spark.

It is what Spark's own `TorchDistributor` does: the tasks of the stage start together, agree on an
address, and each runs one worker. That class itself ships the client's code into the server's, and
breaks where both are not of one version (4.2.0 and 4.2.1 differ); a stage of one's own does not.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import TrainingError
from shoal.training.distributed.launch import RAISED, RESTARTS, launch, own_error

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect.session import SparkSession

    from shoal.training.distributed.fit import Launch

__all__ = ["run_task", "spark_launch"]


def spark_launch(spark: SparkSession) -> Launch:
    """Starts groups of PyTorch workers on Spark; those of other libraries in processes here.

    Rows and saved states lie in a folder of the lake, which all workers see; of a lake in a cloud,
    in one of this machine's ``TMPDIR``, which they then must see.

    Args:
        spark: A session on Apache Spark.
    """

    def run(
        folder: Path, workers: int, kind: str, progress: Callable[[int], None] | None = None
    ) -> None:
        if kind != "torch":
            launch(folder, workers, kind, progress)
            return
        lost = ""
        for _ in range(RESTARTS + 1):
            lost = _attempt(spark, folder, workers)
            if not lost:
                return
        raise TrainingError(
            f"A worker of {workers} on Spark was lost, {RESTARTS + 1} times: {lost}",
            hint="do the workers see this folder, and have they shoal[torch]? "
            f"{folder.parent}; with a lake in a cloud, export TMPDIR=... names another",
        )

    return run


def _attempt(spark: SparkSession, folder: Path, workers: int) -> str:
    """One life of the group: what was said when a worker was lost, or nothing."""
    from pyspark.errors import PySparkException

    for old in folder.glob("error-*.json"):
        old.unlink()
    where = str(folder)

    def task(_batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from shoal.training.distributed.onspark import run_task

        yield from run_task(where)

    tasks = spark.range(0, workers, 1, workers)
    try:
        ended = tasks.mapInArrow(task, "rank bigint, code bigint, said string", barrier=True)
        found = ended.toArrow().to_pylist()
    except PySparkException as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    lost = [one for one in found if one["code"] not in (0, RAISED)]
    raised = [one for one in found if one["code"] == RAISED]
    if raised and not lost:  # else it raised over the one that was lost
        raise own_error(folder, int(raised[0]["rank"]))
    if not lost and not (folder / "result").exists():
        return f"no result was written to {folder}"
    told = (f"worker {one['rank']} ended with {one['code']}: {one['said']}" for one in lost)
    return "; ".join(told)


def run_task(folder: str) -> Iterator[pa.RecordBatch]:
    """What each task of the stage does: it runs one worker, and tells how that ended.

    Args:
        folder: The job; see `shoal.training.distributed.worker`.

    Yields:
        ``rank``, ``code`` (the exit code) and ``said``, its last line.
    """
    import os

    import pyarrow as pa
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank, infos = context.partitionId(), context.getTaskInfos()
    first = infos[0].address.rpartition(":")[0] or infos[0].address
    with socket.socket() as free:  # on the first worker's machine, which opens it again
        free.bind((first if rank == 0 else "", 0))
        port = context.allGather(str(free.getsockname()[1]))[0]
    environment = {
        "OMP_NUM_THREADS": "1",  # as torchrun has it: the workers are the parallelism
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(len(infos)),
        "MASTER_ADDR": first,
        "MASTER_PORT": port,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if first == "127.0.0.1":  # all on one machine, whose name may lead nowhere
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    done = subprocess.run(  # noqa: S603 (our own interpreter and module)
        [sys.executable, "-P", "-m", "shoal.training.distributed.worker", folder],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
    columns = {"rank": [rank], "code": [done.returncode], "said": ["".join(said)[:300]]}
    yield pa.RecordBatch.from_pydict(columns)
