"""One model's search in rounds: so many trials are chosen at once, and measured side by side.

The trials of a round are chosen by what all rounds before it found. So a search depends on how many
trials make a round, and not on how many processors there are or who is quicker; and one that was
interrupted, which keeps whole rounds, goes on as it would have.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from shoal.training.search.job import Measured, measured_of, params_text
from shoal.training.search.score import is_greater_better, score
from shoal.training.search.space import Point
from shoal.training.search.studies import new_study
from shoal.training.search.trials import Trial
from shoal.training.search.work import Work
from shoal.training.task import Task

__all__ = ["search_rounds"]


def search_rounds(work: Work, parallel: int) -> None:
    """Make all trials of the one scope of a search without segments.

    Args:
        work: The search.
        parallel: Trials of a round.
    """
    (scope,) = work.scopes
    study = new_study(
        work.space,
        greater=is_greater_better(work.fit.metric),
        seed=work.fit.seed,
        scope=scope.key,
    )
    known = work.known()[scope.key]
    study.replay(known)
    seen = {trial.point: trial for trial in reversed(known)}
    count = len(known)
    told = list(known)
    while count < work.wanted:
        points = study.ask_many(min(parallel, work.wanted - count))
        if not points:
            return
        texts = [json.dumps(point) for point in points]
        new = {t: p for t, p in zip(texts, points, strict=True) if t not in seen}
        found = dict(zip(new, _measure(work, list(new.values()), told), strict=True))
        trials = []
        for number, (text, point) in enumerate(zip(texts, points, strict=True), count):
            same = seen.get(text)  # the same point measures the same again
            if same is None:
                same = seen[text] = _trial(work, scope.key, point, found[text])
                trials.append(replace(same, number=number))
            else:
                trials.append(replace(same, number=number, seconds=0.0))
        study.tell_many(trials)
        work.add(trials)
        told += trials
        count += len(trials)


def _measure(work: Work, points: list[Point], before: list[Trial]) -> list[Measured]:
    """The points of a round; each is pruned by what all rounds before it found."""
    found: dict[int, Measured] = {}
    same: dict[str, object] = {}
    if not work.space.search.is_hyperopt:
        same["before"] = [vars(trial) for trial in before]
    notes = [json.dumps({"points": [point], **same}).encode() for point in points]
    tasks = [Task(first=i, offsets=work.offsets[:2], note=note) for i, note in enumerate(notes)]
    work.pool.run(tasks, lambda task, batch: found.update({task.first: measured_of(batch, 1)[0]}))
    return [found[i] for i in range(len(points))]


def _trial(work: Work, scope: str, point: Point, measured: Measured) -> Trial:
    value = float(score(work.fit.metric, measured.sums[:1])[0])
    if measured.pruned:
        value = measured.steps[max(measured.steps)]
    failed = not np.isfinite(value)
    undefined = f"{work.fit.metric} is undefined on the validation rows"
    return Trial(
        scope=scope,
        number=0,
        params=params_text(work.space, point),
        point=json.dumps(point),
        state="failed" if failed else "pruned" if measured.pruned else "complete",
        value=None if failed else value,
        steps=dict(measured.steps),
        rows=int(measured.rows.sum()),
        error=(measured.errors[0] or undefined) if failed else None,
        seconds=float(measured.seconds.sum()),
    )
