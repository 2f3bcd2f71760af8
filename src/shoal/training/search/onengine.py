"""Trials on an engine's workers: each task of a search is a row that a Python function measures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from shoal.errors import TrainingError
from shoal.training.task import Task, fit_task

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

__all__ = ["OnEngine", "measure_tasks"]

# An engine may run several Python functions in one process; see `shoal.training.cluster`.
_ALONE = threading.Lock()


class OnEngine:
    """Runs a `Pool`'s tasks as tasks of an engine.

    Job and rows lie in a folder of the lake, which all workers see; of a lake in a cloud, in one of
    this machine's ``TMPDIR``, which they then must see.

    Args:
        spark: A session on the engine.
        size: How many tasks it runs at once.

    Attributes:
        size: How many tasks it runs at once.
    """

    def __init__(self, spark: SparkSession, size: int) -> None:
        self._spark, self.size = spark, size
        self._files = ("", "")

    def open(self, job: Path, rows: Path) -> None:
        """Take the job's rows; see `Pool.open`."""
        self._files = str(job), str(rows)

    def run(self, tasks: Iterable[Task], done: Callable[[Task, pa.RecordBatch], None]) -> None:
        """Run all tasks; see `Pool.run`.

        Raises:
            TrainingError: The engine failed.
        """
        from pyspark.errors import PySparkException

        given = list(tasks)
        if not given:
            return
        messages = [task.to_bytes() for task in given]
        table = pa.table({"number": pa.array(range(len(given)), pa.int64()), "task": messages})
        job, rows = self._files

        def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from shoal.training.search.onengine import measure_tasks

            return measure_tasks(batches, job, rows)

        frame = self._spark.createDataFrame(table).repartition(min(len(given), self.size))
        try:
            found = frame.mapInArrow(measure, "number bigint, result binary").toArrow()
        except PySparkException as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise TrainingError(
                f"The engine could not run the trials: {said[0][:500]}",
                hint="its Python workers need shoal, the estimator's libraries, and this folder: "
                f"{Path(job).parent}; with a lake in a cloud, export TMPDIR=... names another",
            ) from error
        for number, result in zip(
            found.column("number").to_pylist(), found.column("result"), strict=True
        ):
            with pa.ipc.open_stream(result.as_buffer()) as stream:
                done(given[number], stream.read_next_batch())


def measure_tasks(
    batches: Iterator[pa.RecordBatch], job: str, rows: str
) -> Iterator[pa.RecordBatch]:
    """What a worker does with its share of the tasks.

    Args:
        batches: ``number`` and ``task``.
        job: The pickled job's file.
        rows: The rows' file.

    Yields:
        ``number`` and ``result``, an Arrow stream of one batch.
    """
    import cloudpickle
    from threadpoolctl import threadpool_limits

    # The driver, which already runs code on this worker, has written it.
    work = cloudpickle.loads(Path(job).read_bytes())
    table = pa.ipc.open_file(pa.memory_map(rows)).read_all()
    for batch in batches:
        for number, message in zip(
            batch.column("number").to_pylist(), batch.column("task").to_pylist(), strict=True
        ):
            with _ALONE, threadpool_limits(1):
                found = fit_task(table, Task.from_bytes(message), work)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, found.schema) as stream:
                stream.write_batch(found)
            yield pa.RecordBatch.from_pydict(
                {
                    "number": pa.array([number], pa.int64()),
                    "result": pa.array([sink.getvalue().to_pybytes()], pa.binary()),
                }
            )
