"""One piece of work for whoever fits: which rows, and what to do with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from shoal.training.groups import fit_group
from shoal.training.kernel import FitJob, fit_segments

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Job", "PooledJob", "Task", "checked", "fit_task"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Adjacent segments to fit.

    Attributes:
        first: The position of the first segment, for whoever collects the results.
        offsets: Int64 row offsets, shape (segments + 1,).
        group: Whether it is one fallback group, whose rows are not in the order of time.
        choices: Which of the job's parameters each segment takes, int64, shape (segments,); none
            when all take the same.
        note: What a search's job reads.
    """

    first: int
    offsets: Array
    group: bool = False
    choices: Array | None = None
    note: bytes = b""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def apart(self) -> list[Task]:
        """One task for each of its segments."""
        return [
            replace(
                self,
                first=self.first + i,
                offsets=self.offsets[i : i + 2],
                choices=None if self.choices is None else self.choices[i : i + 1],
            )
            for i in range(len(self))
        ]

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        choices = np.empty(0) if self.choices is None else self.choices
        numbers = np.r_[self.first, int(self.group), len(self.offsets), len(choices)]
        numbers = np.r_[numbers, self.offsets, choices].astype(np.int64)
        return bytes(numbers.tobytes()) + self.note

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """The task that `to_bytes` wrote."""
        first, group, edges, chosen = np.frombuffer(message, dtype=np.int64, count=4).tolist()
        numbers = np.frombuffer(message, dtype=np.int64, count=4 + edges + chosen)[4:]
        return cls(
            first=first,
            offsets=numbers[:edges],
            group=bool(group),
            choices=numbers[edges:] if chosen else None,
            note=message[8 * (4 + edges + chosen) :],
        )


class PooledJob(Protocol):
    """A job other than fitting segments that all have the same parameters."""

    def run(self, rows: pa.Table, task: Task) -> pa.RecordBatch:
        """The result of one task.

        Args:
            rows: All sorted rows.
            task: What to do.
        """
        ...


Job = FitJob | PooledJob


def checked(job: Job) -> Job:
    """The job with scikit-learn's own checks, for its first task: they find a wrong parameter."""
    return replace(job, fast=False) if isinstance(job, FitJob) else job


def fit_task(rows: pa.Table, task: Task, job: Job) -> pa.RecordBatch:
    """One task's result.

    Args:
        rows: All sorted rows.
        task: What to do.
        job: How to do it.
    """
    if not isinstance(job, FitJob):
        return job.run(rows, task)
    start, end = int(task.offsets[0]), int(task.offsets[-1])
    if task.group:
        return fit_group(rows, start, end, job)
    return fit_segments(rows.slice(start, end - start), task.offsets - start, job)
