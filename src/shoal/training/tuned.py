"""Fits of segments that have parameters of their own, as a search found them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.models import ModelDeclaration
from shoal.models.columns import accepts_nan, by_position
from shoal.models.segments import segment_key
from shoal.training.job import FitJob
from shoal.training.task import Task, fit_task

__all__ = ["Choices", "TunedJob", "placed", "with_params"]

Array = np.ndarray[Any, Any]


class Choices:
    """The parameters of each segment and group of one declaration.

    Args:
        declaration: The declaration; its ``params`` are those of whatever ``tuned`` leaves out.
        clusters: The cluster of each segment, where ``tuned`` is by clusters.

    Attributes:
        params: The different parameters; the first are the declaration's.
    """

    def __init__(
        self, declaration: ModelDeclaration, clusters: Mapping[str, str] | None = None
    ) -> None:
        self._clusters = dict(clusters or {})
        self._same = {
            key: dict(declaration.params) | dict(p) for key, p in declaration.tuned.items()
        }
        texts = [repr(p) for p in self._same.values()]
        known = {repr(dict(declaration.params)): 0}
        self.params = [dict(declaration.params)]
        for text, params in zip(texts, self._same.values(), strict=True):
            if text not in known:
                known[text] = len(self.params)
                self.params.append(params)
        self._at = {key: known[t] for key, t in zip(self._same, texts, strict=True)}
        first = next(iter(self._at), "[]")
        whole = len(declaration.by)
        self._length = whole if first.startswith("{") else len(json.loads(first))

    def of(self, text: Sequence[str | None]) -> int:
        """The position in ``params`` of those of a segment, or of a group's first key values."""
        if len(text) < self._length or not self._at:
            return 0
        key = segment_key(tuple(text[: self._length]))
        return self._at.get(self._clusters.get(key, key), 0)


@dataclass(frozen=True, kw_only=True)
class TunedJob:
    """Fits each segment with parameters of its own.

    Attributes:
        jobs: One for each choice of parameters.
        choices: Who has which.
    """

    jobs: tuple[FitJob, ...]
    choices: Choices

    def chosen(self, task: Task, texts: Iterable[Sequence[str | None]]) -> Task:
        """The task with its segments' choices.

        Args:
            task: Segments, or one group.
            texts: Their key texts; the first ones of a group.
        """
        found = [self.choices.of(text) for text in texts]
        return replace(task, choices=np.array(found, dtype=np.int64))

    def run(self, rows: pa.Table, task: Task) -> pa.RecordBatch:
        """The kernel's rows of the task's segments, in their order; see `fit_segments`."""
        assert task.choices is not None
        used, at = np.unique(task.choices, return_inverse=True)
        if len(used) == 1:
            return fit_task(rows, replace(task, choices=None), self.jobs[int(used[0])])
        # One chunk: rows are taken of a mapped file's many chunks by copying all of them.
        start, end = int(task.offsets[0]), int(task.offsets[-1])
        rows, offsets = rows.slice(start, end - start).combine_chunks(), task.offsets - start
        parts, order = [], []
        for k, choice in enumerate(used.tolist()):
            mine = np.flatnonzero(at == k)
            sizes = offsets[mine + 1] - offsets[mine]
            ends = np.cumsum(sizes)
            taken = np.arange(int(ends[-1])) + np.repeat(offsets[mine] - (ends - sizes), sizes)
            part = Task(first=0, offsets=np.concatenate([[0], ends]))
            parts.append(fit_task(rows.take(pa.array(taken)), part, self.jobs[choice]))
            order.append(mine)
        both = pa.concat_tables(
            [pa.Table.from_batches([p]) for p in parts], promote_options="default"
        )
        both = both.unify_dictionaries().take(pa.array(np.argsort(np.concatenate(order))))
        return both.combine_chunks().to_batches()[0]


def with_params(
    job: FitJob, declaration: ModelDeclaration, names: list[str], params: dict[str, Any]
) -> FitJob:
    """The job of a declaration with other parameters.

    Args:
        job: Its job.
        declaration: The declaration.
        names: Its features.
        params: Arguments for its function, instead of those of these names.

    Raises:
        ModelError: The function failed with these parameters, or returned no estimator.
    """
    declared = replace(declaration, params={**declaration.params, **params}, tuned={}, search=None)
    estimator = declared.build()
    named = by_position(estimator, names)
    return replace(
        job,
        build=partial(placed, declared, names) if named else declared.build,
        nan_ok=accepts_nan(estimator),
    )


def placed(declaration: ModelDeclaration, names: list[str]) -> Any:
    """A new estimator whose named columns are positions."""
    estimator = declaration.build()
    by_position(estimator, names)
    return estimator
