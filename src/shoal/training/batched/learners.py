"""What is fitted for many segments at once: straight lines, and forecasts of their series."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from shoal.training.batched.moments import Sums, sum_segments
from shoal.training.batched.plan import Plan, plan_of
from shoal.training.batched.solve import solve
from shoal.training.weights import fit_plainly

if TYPE_CHECKING:
    from shoal.forecast import Forecaster

__all__ = ["Learner", "Rows", "learner_of"]

Array = np.ndarray[Any, Any]
Owner = int | None

# Forecasts are made step by step, so it takes many series to make a step worth its call.
_SERIES = 512


class Rows:
    """The rows of some segments.

    Args:
        features: Shape (rows, features).
        target: Shape (rows,).
        starts: Each segment's first row.
        ends: The row after its last.
        weights: Shape (rows,); None when all rows count alike.
    """

    def __init__(
        self,
        features: Array,
        target: Array,
        starts: Array,
        ends: Array,
        weights: Array | None = None,
    ) -> None:
        self.features, self.target, self.starts, self.ends = features, target, starts, ends
        self.weights = weights

    def part(self, i: int) -> tuple[Array, Array, Array | None]:
        """A segment's features, targets and weights."""
        rows = slice(self.starts[i], self.ends[i])
        weights = None if self.weights is None else self.weights[rows]
        return self.features[rows], self.target[rows], weights


class Learner(Protocol):
    """Fits segments at once.

    Attributes:
        fixed: Positions of the pipeline's steps that are fitted equally in all members.
        at_least: How many segments it takes to be worth it.
    """

    fixed: Collection[Owner]
    at_least: int

    def start(self, rows: Rows) -> None:
        """Take the segments."""

    def window(self, begin: Array, end: Array, guess: Array) -> Array:
        """Fit the rows of each segment before ``begin``, predict those from there to ``end``.

        Args:
            begin: The row after each segment's last to fit.
            end: The row after its last to predict.
            guess: Receives the predictions, shape (rows,).

        Returns:
            Which segments were fitted.
        """

    def means(self, begin: Array) -> Array:
        """The mean target of each segment's rows before ``begin``, those of the last window."""

    def whole(self) -> tuple[Mapping[tuple[Owner, str], Array], Array]:
        """Fitted attributes of all rows of each segment, and which segments have them."""

    def member(self, build: Callable[[], Any], i: int) -> Any:
        """One segment's estimator, fitted on all its rows as it is without batches."""


def learner_of(estimator: Any, memo: dict[Any, Any] | None = None) -> Learner | None:
    """What fits an estimator for many segments at once; None when nothing does.

    Args:
        estimator: The unfitted estimator.
        memo: What trials of the same rows, of one window, have in common; None without.
    """
    from shoal.forecast import Forecaster

    if isinstance(estimator, Forecaster):
        return Series(estimator) if estimator.at_once else None
    plan = plan_of(estimator)
    return None if plan is None else Lines(plan, memo)


class Lines:
    """Linear regressions."""

    at_least = 0

    def __init__(self, plan: Plan, memo: dict[Any, Any] | None) -> None:
        self._plan = plan
        # Trials differ in the solution only.
        self._memo, self._key = memo, repr((plan.expand, plan.extremes))
        self._known: Sums | None = memo.get(self._key) if memo is not None else None
        self.fixed: Collection[Owner] = [step for step, _ in plan.expand]

    def start(self, rows: Rows) -> None:
        """See `Learner`."""
        self._rows, self._features = rows, rows.features
        if self._known is not None:
            return
        for _, step in self._plan.expand:
            self._features = np.asarray(step.fit_transform(self._features), dtype=np.float64)

    def window(self, begin: Array, end: Array, guess: Array) -> Array:
        """See `Learner`."""
        plan, rows = self._plan, self._rows
        self._sums: Sums = self._known or sum_segments(
            self._features,
            rows.target,
            rows.starts,
            begin,
            end,
            extremes=plan.extremes,
            weights=rows.weights,
        )
        if self._memo is not None:
            self._memo[self._key] = self._sums
        sums = self._sums
        past = solve(plan, sums.train, sums.pivot, sums.weighted_train)
        for i, (cut, stop) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            if cut < stop:
                np.matmul(self._sums.work[cut:stop], past.weights[i], out=guess[cut:stop])
        return past.sound

    def means(self, begin: Array) -> Array:  # noqa: ARG002
        """See `Learner`."""
        found: Array = self._sums.pivot[:, -1] + self._sums.train.shift[:, -1]
        return found

    def whole(self) -> tuple[Mapping[tuple[Owner, str], Array], Array]:
        """See `Learner`."""
        sums = self._sums
        found = solve(self._plan, sums.whole, sums.pivot, sums.weighted_whole)
        return found.attributes, found.sound

    def member(self, build: Callable[[], Any], i: int) -> Any:
        """See `Learner`."""
        estimator = build()
        fit_plainly(estimator, *self._rows.part(i))
        return estimator


class Series:
    """Forecasters: the same arithmetic fits one series and many."""

    at_least = _SERIES
    fixed: Collection[Owner] = ()

    def __init__(self, estimator: Forecaster) -> None:
        self._estimator = estimator

    def start(self, rows: Rows) -> None:
        """See `Learner`."""
        self._rows = rows
        self._learned: dict[str, Array] = {}
        self._place = np.full(len(rows.starts), -1)

    def window(self, begin: Array, end: Array, guess: Array) -> Array:
        """See `Learner`."""
        asked = begin < end
        sound = ~asked
        learned, at = self._fit(np.flatnonzero(asked), begin)
        for k, i in enumerate(at.tolist()):
            later = slice(begin[i], end[i])
            guess[later] = self._made(learned, k).predict(self._rows.features[later])
        sound[at] = True
        return sound

    def means(self, begin: Array) -> Array:
        """See `Learner`."""
        edges = zip(self._rows.starts.tolist(), begin.tolist(), strict=True)
        return np.array([self._rows.target[start:stop].mean() for start, stop in edges])

    def whole(self) -> tuple[Mapping[tuple[Owner, str], Array], Array]:
        """See `Learner`."""
        count = len(self._rows.starts)
        self._learned, at = self._fit(np.arange(count), self._rows.ends)
        sound = np.zeros(count, dtype=bool)
        self._place[at] = np.arange(len(at))
        sound[at] = True
        found: dict[tuple[Owner, str], Array] = {}
        for name, values in self._learned.items():
            all_values = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
            all_values[at] = values
            found[None, name] = all_values
            sound[at] &= np.isfinite(values.reshape(len(at), -1)).all(axis=1)
        return found, sound

    def member(self, build: Callable[[], Any], i: int) -> Any:  # noqa: ARG002
        """See `Learner`."""
        return self._made(self._learned, int(self._place[i]))

    def _fit(self, segments: Array, stops: Array) -> tuple[dict[str, Array], Array]:
        rows = self._rows
        parts = [slice(rows.starts[i], stops[i]) for i in segments.tolist()]
        times = rows.features[:, 0]
        learned, at = self._estimator.fit_many(
            [times[part] for part in parts], [rows.target[part] for part in parts]
        )
        return learned, segments[at]

    def _made(self, learned: Mapping[str, Array], k: int) -> Forecaster:
        made = copy.copy(self._estimator)
        made.take({name: values[k] for name, values in learned.items()})
        return made
